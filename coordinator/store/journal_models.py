"""The journal's tables, in the registry's database."""

from datetime import datetime

from sqlalchemy import BigInteger, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from fedmore.coordinator.store.models import Base

__all__ = ["Base", "BlobRecord", "TaskRecord", "UploadRecord"]


class TaskRecord(Base):
    """One task, which is open until it has a `reply`; `failed` marks a reply that is a failure.

    A failed task is `retired` when its round is tried again, and stays so that its id is not
    reused.
    """

    __tablename__ = "tasks"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    group: Mapped[str] = mapped_column("group_id", Text, index=True)
    node_id: Mapped[int] = mapped_column(BigInteger)
    task: Mapped[bytes] = mapped_column(LargeBinary)
    reply: Mapped[bytes | None] = mapped_column(LargeBinary)
    failed: Mapped[bool] = mapped_column(default=False)
    retired: Mapped[bool] = mapped_column(default=False)
    pushed_at: Mapped[datetime]
    answered_at: Mapped[datetime | None]


class BlobRecord(Base):
    """A blob that a task names (`sent`) or its reply."""

    __tablename__ = "task_blobs"
    task_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    sent: Mapped[bool] = mapped_column(primary_key=True)


class UploadRecord(Base):
    """A blob that a node has uploaded, which its replies may name."""

    __tablename__ = "uploads"
    node_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    received_at: Mapped[datetime]
