"""Delete the features that a teacher computed of training data with removed pairs."""

from dataclasses import dataclass

from tasks.takedown.holders import Erased, Scope
from tasks.takedown.traces import Traces

TRAINING_RUNS = "a running training reads these features of removed pairs: repeat the takedown after its end"


@dataclass(frozen=True)
class TeacherFeatures:
    """A folder below `features` for each teacher and dataset; `features/towers` is of another holder."""

    order: int = 25

    def erase(self, traces: Traces, scope: Scope) -> Erased:
        """Delete the folders that no process holds."""
        from dataops.storage.cached_files import delete_unheld

        erased = Erased()
        for folder in sorted((scope.home / "features").glob("*/")) if traces.uids else ():
            if folder.name != "towers":
                if delete_unheld(folder):
                    erased.files += 1
                else:
                    erased.refused[str(folder)] = TRAINING_RUNS
        return erased

    def find(self, traces: Traces, scope: Scope) -> None:
        """Return None: no feature shows of what it is."""


TEACHERS = TeacherFeatures()
