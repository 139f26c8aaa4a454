"""Reports of progress are written many at a time, in their order, and nothing waits behind them."""

from fedmore.coordinator.monitor import tracking_jobs
from fedmore.coordinator.monitor.tracking_jobs import Jobs, Steps


def reports(*numbers):
    return [Steps((("ana", {"loss": float(number)}),)) for number in numbers]


def losses(job):
    return [values["loss"] for _, values in job.reports]


def test_reports_that_wait_are_one_job(monkeypatch):
    monkeypatch.setattr(tracking_jobs, "LINGER_S", 0.0)
    jobs = Jobs()
    for each in reports(*range(5)):
        jobs.put(each)
    assert losses(jobs.take()) == [0, 1, 2, 3, 4]


def test_another_job_comes_after_those_before_it_and_at_once(monkeypatch):
    """The linger is a day here: a job that is no report ends it."""
    monkeypatch.setattr(tracking_jobs, "LINGER_S", 86_400.0)
    jobs, done = Jobs(), []
    for job in [*reports(1, 2), done.append, *reports(3), None]:
        jobs.put(job)
    assert losses(jobs.take()) == [1, 2]
    assert jobs.take() == done.append
    assert losses(jobs.take()) == [3]
    assert jobs.take() is None


def test_a_batch_has_a_size(monkeypatch):
    monkeypatch.setattr(tracking_jobs, "MOST", 3)
    jobs = Jobs()
    for job in [*reports(*range(7)), None]:
        jobs.put(job)
    assert [len(jobs.take().reports) for _ in range(3)] == [3, 3, 1]
    assert jobs.take() is None
