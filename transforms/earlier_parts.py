"""Parts that an earlier run has made, and a later one takes over whole."""

from __future__ import annotations

from dataclasses import dataclass

from lexbeam.transforms import checksums
from lexbeam.transforms.part_files import PartFolder, open_part, read_part
from lexbeam.transforms.published import PublishedRun


@dataclass(frozen=True)
class EarlierParts:
    """Parts of an earlier run that may be taken over whole.

    Attributes:
        parts: the earlier parts.
        run: the earlier run.
        splits: for each split the earlier one that is read from the same bytes, or -1.
        dropped: the dropped rows now and then, which must be the same; None: any.
        without_errors: whether a part with failed rows is made again.
    """

    parts: PartFolder
    run: PublishedRun
    splits: tuple[int, ...]
    dropped: tuple[PartFolder, PartFolder] | None = None
    without_errors: bool = False

    def take_over(self, split: int, target: PartFolder) -> int | None:
        """Take a part over, unless another process has made it; its rows, or None: make it.

        A part that was damaged since it was published is not taken.
        """
        earlier = self.splits[split]
        if earlier < 0 or not self._same_dropped(split, earlier):
            return None
        source = self.parts.part(earlier)
        expected = self.run.checksum(source)
        if expected is None or not self.run.is_sound(source):
            return None
        if self.without_errors and _has_errors(source):
            return None
        checksums.copy_file(source, target.part(split), expected)
        with open_part(source) as part:
            return int(part.metadata.num_rows)

    def is_taken_over(self, split: int, target: PartFolder) -> bool:
        """Whether a part is the earlier one."""
        earlier = self.splits[split]
        if earlier < 0:
            return False
        expected = self.run.checksum(self.parts.part(earlier))
        return expected is not None and expected == checksums.kept_checksum(target.part(split))

    def _same_dropped(self, split: int, earlier: int) -> bool:
        if self.dropped is None:
            return True
        now, then = self.dropped
        if not self.run.is_sound(then.part(earlier)):
            return False
        rows = [read_part(now.part(split), ["row"]), read_part(then.part(earlier), ["row"])]
        return bool(rows[0].equals(rows[1]))


def _has_errors(path: str) -> bool:
    column = read_part(path, ["error_type"])["error_type"]
    return bool(column.null_count < len(column))
