"""What a plan with a learned router needs and lacks is said before anything is trained."""

import pytest

from fedmore.coordinator.config.schema import parse_config
from fedmore.coordinator.config.validation import check_plan
from fedmore.experts.errors import ConfigError

EXPERTS, LANGUAGE = {"kind": "experts"}, {"kind": "language"}
EMBEDDINGS, ROUTING = {"kind": "router", "rounds": 1}, {"kind": "routing"}


@pytest.fixture
def plan(tmp_path):
    """Call it with stages and changes of the router: the configuration."""
    (tmp_path / "text.txt").write_text("public text")

    def make(*stages, **router):
        texts = {"public_text": str(tmp_path / "text.txt")}
        table = {
            "federation": {"name": "x"},
            "base": {"model": str(tmp_path)},
            "stages": list(stages),
            "router": {"kind": "softmax", "trained_at": "clients"} | texts | router,
        }
        return parse_config(table, "here")

    return make


@pytest.mark.parametrize("kind", ["softmax", "xlora", "remix"])
def test_a_router_that_clients_train_after_the_experts(plan, kind):
    check_plan(plan(EXPERTS, LANGUAGE, ROUTING, kind=kind))


@pytest.mark.parametrize("stages", [(EXPERTS, EMBEDDINGS, ROUTING), (EXPERTS, ROUTING, EMBEDDINGS)])
def test_both_kinds_of_router_stage_may_be_there(plan, stages):
    """The mixture may be assembled anew with a router of domain embeddings."""
    check_plan(plan(*stages))


def test_a_start_from_domain_embeddings_needs_them_first(plan):
    check_plan(plan(EXPERTS, EMBEDDINGS, ROUTING, init="domain"))
    with pytest.raises(ConfigError, match=r'stages\[1\]\.kind: "routing" starts from what'):
        check_plan(plan(EXPERTS, ROUTING, EMBEDDINGS, init="domain"))
    with pytest.raises(ConfigError, match='need a stage of kind "router"'):
        check_plan(plan(EXPERTS, ROUTING, init="domain"))


@pytest.mark.parametrize(
    ("stages", "at"),
    [((ROUTING, EXPERTS), 0), ((EXPERTS, ROUTING, LANGUAGE), 1), ((ROUTING, LANGUAGE, EXPERTS), 0)],
)
def test_routing_comes_after_every_expert(plan, stages, at):
    with pytest.raises(
        ConfigError, match=rf"stages\[{at}\].kind: .* after every stage that trains"
    ):
        check_plan(plan(*stages))


@pytest.mark.parametrize("stages", [(ROUTING,), (EMBEDDINGS, ROUTING)])
def test_there_must_be_an_expert_to_route(plan, stages):
    with pytest.raises(ConfigError, match="stages: none trains an expert; add one of experts"):
        check_plan(plan(*stages))


@pytest.mark.parametrize("kind", ["uniform", "domain", "arrow"])
def test_a_router_that_is_set_is_not_trained(plan, kind):
    for stages in ((EXPERTS, ROUTING), (EXPERTS, EMBEDDINGS, ROUTING), (EXPERTS, EMBEDDINGS)):
        with pytest.raises(ConfigError, match=f"router.trained_at: {kind} is set, not trained"):
            check_plan(plan(*stages, kind=kind))


@pytest.mark.parametrize(
    ("stages", "router", "says"),
    [
        ((EXPERTS,), {}, 'router.trained_at: "clients" needs a stage of kind "routing"'),
        ((EXPERTS, ROUTING), {"public_text": ""}, "router.public_text: name public text"),
        ((EXPERTS, ROUTING), {"public_text": "/gone"}, "router.public_text: /gone is not there"),
        (
            (EXPERTS, ROUTING),
            {"experts_learning_rate": 0.1},
            "router.experts_learning_rate: clients train the",
        ),
    ],
)
def test_what_is_missing_at_the_clients_is_named(plan, stages, router, says):
    with pytest.raises(ConfigError, match=says):
        check_plan(plan(*stages, **router))


@pytest.mark.parametrize("kind", ["softmax", "domain"])
def test_routing_is_for_a_router_that_clients_train(plan, kind):
    with pytest.raises(
        ConfigError, match=r'stages\[1\].kind: .* set router.trained_at = "clients"'
    ):
        check_plan(plan(EXPERTS, ROUTING, kind=kind, trained_at="coordinator"))


@pytest.mark.parametrize(
    ("router", "says"),
    [
        ({"proxy_texts": {}}, "router.proxy_texts: name public text that is like each domain's"),
        ({"proxy_texts": {"law": "/gone"}}, "router.proxy_texts.law: /gone is not there"),
        ({"public_text": ""}, "router.public_text: name public text"),
    ],
)
def test_what_is_missing_at_the_coordinator_is_named(plan, tmp_path, router, says):
    whole = {"trained_at": "coordinator", "proxy_texts": {"law": str(tmp_path / "text.txt")}}
    check_plan(plan(EXPERTS, **whole))
    with pytest.raises(ConfigError, match=says):
        check_plan(plan(EXPERTS, **whole | router))


@pytest.mark.parametrize(
    ("router", "says"),
    [
        ({"kind": "oracle"}, "kind"),
        ({"trained_at": "home"}, "trained_at"),
        ({"kind": "remix", "num_selections": 1}, "num_selections must be 2 or more for ReMix"),
        ({"kind": "remix", "top_k": 0}, "top_k must be 1 or more for ReMix"),
        ({"kind": "xlora", "init": "domain"}, "init: domain embeddings are for softmax and"),
        ({"per_layer": True, "init": "domain"}, "init: domain embeddings are for"),
    ],
)
def test_what_no_router_can_be_is_no_configuration(plan, router, says):
    with pytest.raises(ConfigError, match=f"here: router.*{says}"):
        plan(EXPERTS, ROUTING, **router)


@pytest.mark.parametrize("aggregation", ["krum", "trimmed_mean"])
def test_a_router_is_the_mean(plan, aggregation):
    with pytest.raises(ConfigError, match=r"stages\[1\]\.aggregation: "):
        plan(EXPERTS, ROUTING | {"aggregation": aggregation})


def test_routing_is_there_once(plan):
    with pytest.raises(ConfigError, match="each kind of stage once"):
        plan(EXPERTS, ROUTING, ROUTING)
