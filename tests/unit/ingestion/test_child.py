"""What the child that reads a file answers."""

from __future__ import annotations

from pathlib import Path

from tests.unit.ingestion.conftest import LIMITS
from worker.ingestion import answer
from worker.messages import Failed, IngestFile, IngestOptions, Refused


def order(folder: Path, text: str) -> IngestFile:
    upload, scratch = folder / "upload", folder / "scratch"
    upload.write_text(text)
    scratch.mkdir()
    options = IngestOptions(format="csv", target="y")
    return IngestFile(job_id="job_1", fence=1, upload=upload, options=options, scratch=scratch, limits=LIMITS)


def test_integers_of_more_digits_than_python_reads_are_refused(tmp_path: Path) -> None:
    rows = "".join(f"{row},{str(row % 2 + 1) * 5_000}\n" for row in range(20))
    answered = answer(order(tmp_path, "a,y\n" + rows))
    assert isinstance(answered, Refused)
    assert answered.code == "text_too_long"


def test_an_error_that_nobody_thought_of_is_told_with_its_name(tmp_path: Path) -> None:
    broken = order(tmp_path, "a,y\n1,u\n2,v\n").model_copy(update={"options": None})
    answered = answer(broken)
    assert isinstance(answered, Failed)
    assert (answered.code, answered.retryable) == ("ingestion_error", False)
    assert "AttributeError" in answered.message
