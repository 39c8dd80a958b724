"""The drop reasons of images that are read where they lie."""

from dataops.schema import DropReason

NO_IMAGE = "no_image"
OUTSIDE_SOURCE = "outside_source"
NOT_A_FILE = "not_a_file"
SEVERAL_IMAGES = "several_images"
BAD_CAPTION = "bad_caption"
REPEATED_NAME = "repeated_name"

_READ = {
    NO_IMAGE: DropReason(
        "There is no image, or it cannot be read: a caption or a row of a list is alone, the file was deleted, or "
        "its row has no bytes.",
        "rename the file, or correct the list",
    ),
    OUTSIDE_SOURCE: DropReason(
        "The path is absolute, has `..`, or is a link that leads out of the folder of the source.",
        "put the image into the folder, and write its path relative to it",
    ),
    NOT_A_FILE: DropReason("The path is no regular file: a folder, a named pipe, a socket or a device."),
}
REASONS = {
    **_READ,
    SEVERAL_IMAGES: DropReason(
        "Images differ only in the ending of their names, so it is not clear which of them the caption describes.",
        "rename them, or write a list with `source.captions`",
    ),
    BAD_CAPTION: DropReason(
        "The `.txt` or `.json` of the image cannot be read: it is not UTF-8, no JSON, over 1 MiB or no regular file.",
        "write it as UTF-8",
    ),
    REPEATED_NAME: DropReason("An earlier sample of the same shard has this name."),
}
"""Those of `extract`; _READ are those of `download` too."""
READ_REASONS = _READ
