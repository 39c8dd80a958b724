"""Erase removed pairs from what `pairmill browse` keeps: features of images, and the files of its processes."""

from dataclasses import dataclass

from tasks.takedown.holders import Erased, Found, Scope, Searched, Traces

RUNS = "a running `pairmill browse` may hold removed pairs: end it, and repeat the takedown"


@dataclass(frozen=True)
class BrowseCaches:
    """Features below `browse/features`, and the folders of processes."""

    order: int = 24

    def erase(self, traces: Traces, scope: Scope) -> Erased:
        """Overwrite the features of removed images, and delete the folders that no process holds."""
        from dataops.errors import PairmillError
        from dataops.storage.cached_files import SESSIONS, delete_unheld
        from plugins.browse.feature_table import FeatureTable, image_ids

        erased = Erased()
        for folder in sorted((scope.home / "browse" / "features").glob("*")) if traces.uids else ():
            try:
                erased.files += FeatureTable(folder).erase(image_ids(sorted(traces.images)))
            except PairmillError as error:
                erased.refused[str(folder)] = str(error)
        for folder in sorted((scope.home / SESSIONS).glob("*")) if traces.uids else ():
            if delete_unheld(folder):
                erased.files += 1
            else:
                erased.refused[str(folder)] = RUNS
        return erased

    def find(self, traces: Traces, scope: Scope) -> Searched:
        """Count the features of removed images."""
        from plugins.browse.feature_table import FeatureTable, image_ids

        searched = Searched(f"features {scope.home / 'browse'}")
        for folder in sorted((scope.home / "browse" / "features").glob("*")):
            known = FeatureTable(folder).locate(image_ids(sorted(traces.images)))
            searched.files += 1
            if number := int((known >= 0).sum()):
                remedy = "delete the folder, and repeat the takedown"
                searched.found.append(Found(searched.place, folder.name, {"feature": number}, remedy))
        return searched


CACHES = BrowseCaches()
