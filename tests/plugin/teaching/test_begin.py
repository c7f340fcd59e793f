"""What happens between pressing Teach and the lesson."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from plugin.fakes_teaching import fit_of, hint, make_teacher, paint

from napari_clipsam._plugin.runner import Job, SyncRunner
from napari_clipsam._plugin.teaching import TeachController
from napari_clipsam.errors import PlaneError


class SlowRunner(SyncRunner):
    """Keeps one kind of job until it is asked to go on; a job takes the place of another."""

    def __init__(self) -> None:
        super().__init__()
        self.is_slow = False
        self.waiting: Job | None = None

    def submit(self, job: Job) -> None:
        if self.is_slow and job.kind == "teach-look":
            self.waiting = job
        else:
            super().submit(job)

    def go_on(self) -> None:
        job, self.waiting = self.waiting, None
        assert job is not None
        super().submit(job)


@pytest.fixture
def runner() -> SlowRunner:
    return SlowRunner()


@pytest.fixture
def teacher(viewer: ViewerModel, labels: np.ndarray, runner: SlowRunner) -> TeachController:
    """One that was told to teach, and still looks at the labels."""
    teacher = make_teacher(viewer, runner=runner)
    teacher.set_words("mitochondria")
    runner.is_slow = True
    teacher.teach()
    return teacher


def test_a_lesson_begins_once_the_labels_were_looked_at(
    teacher: TeachController, runner: SlowRunner
) -> None:
    assert teacher.state.busy is not None and not fit_of(teacher).asked
    teacher.teach()
    runner.go_on()
    assert len(fit_of(teacher).asked) == 1 and teacher.state.busy is None


def test_what_is_painted_meanwhile_is_learnt_from(
    teacher: TeachController, viewer: ViewerModel, runner: SlowRunner
) -> None:
    paint(viewer.layers["mito"], 16, 700)
    runner.go_on()
    (asked,) = fit_of(teacher).asked
    assert len(asked.split.train) + len(asked.split.held_out) == 4


def test_it_can_be_stopped_before_it_begins(teacher: TeachController, runner: SlowRunner) -> None:
    teacher.stop()
    assert teacher.state.busy is None
    runner.go_on()
    assert not fit_of(teacher).asked and teacher.state.slices == "3, 7, 12"


def test_other_labels_are_not_taught_in_their_place(
    teacher: TeachController, viewer: ViewerModel, runner: SlowRunner
) -> None:
    viewer.add_labels(np.ones((20, 40, 50), int), name="other")
    teacher.set_labels("other")
    assert hint(teacher).endswith("Press Teach again.") and teacher.state.busy is None
    runner.go_on()
    assert not fit_of(teacher).asked


def test_without_its_layers_nothing_begins(teacher: TeachController, viewer: ViewerModel) -> None:
    viewer.layers.clear()
    assert hint(teacher) == "Open an image and labels for a few of its slices."
    assert teacher.state.busy is None and not fit_of(teacher).asked


def test_labels_that_cannot_be_read_are_said(
    teacher: TeachController, runner: SlowRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def labels(*_: object) -> np.ndarray:
        raise PlaneError("The labels of slice 3 cannot be read.")

    monkeypatch.setattr("napari_clipsam._plugin.teach_pair.Slices.labels", labels)
    runner.go_on()
    assert hint(teacher) == "The labels of slice 3 cannot be read."
    assert teacher.state.busy is None and not fit_of(teacher).asked
