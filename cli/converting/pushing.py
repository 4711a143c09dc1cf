"""`lost convert --push`: what goes up to the hub, and whether it did."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Push:
    """The options that say where an export goes.

    Attributes:
        name: of the repository.
        public: whether everybody may see it.
        dry_run: whether what would go up is only listed.
    """

    name: str
    public: bool
    dry_run: bool

    def check(self) -> None:
        """Refuse what can't be uploaded, before anything is exported.

        Raises:
            UserError: as `check_upload`.
        """
        from lost.interop.hub.upload import check_upload

        check_upload(self.name, not self.dry_run)

    def send(self, folder: Path) -> tuple[dict[str, Any], list[str]]:
        """Upload an export unless it is a dry run, and return the answer as JSON and as lines.

        Raises:
            UserError, NetworkError: as `upload`.
        """
        from lost.interop.hub.upload import upload

        files = {each.name: each.stat().st_size for each in sorted(folder.iterdir())}
        seen = "public" if self.public else "private"
        value: dict[str, Any] = {"repository": self.name, "private": not self.public, "files": files, "commit": None}
        if self.dry_run:
            lines = [f"{self.name} ({seen}) would get {name}: {size:,} bytes" for name, size in files.items()]
            return value, [*lines, "nothing was uploaded; with --overwrite in place of --dry-run it will be"]
        value["commit"] = upload(folder, self.name, self.public)
        return value, [f"uploaded to {value['commit']} ({seen})"]
