"""Cache the answers of models that any run of the store paid for: one object an image.

    captions/<digest of model, version, prompt and sampling>/<first 3 digits>/<sha256 of the image in its shard>.json

An object is written as soon as the answer is there, so a killed run pays again only for the requests that were on their
way. If it is deleted, the model is asked again.
"""

from dataclasses import asdict

import msgspec

from dataops.store import Store
from tasks.curate.recaption.endpoint import Answer


def read_answer(store: Store, captioner: str, image_digest: str) -> Answer | None:
    """Return the cached answer for an image; None if there is none, or a power failure broke it."""
    name = _name(captioner, image_digest)
    if not store.size(name):
        return None
    try:
        return msgspec.json.decode(store.read(name), type=Answer)
    except msgspec.MsgspecError:
        return None


def put_answer(store: Store, captioner: str, image_digest: str, answer: Answer) -> None:
    """Write the answer for an image."""
    store.put(_name(captioner, image_digest), msgspec.json.encode(asdict(answer)))


def _name(captioner: str, image_digest: str) -> str:
    return f"captions/{captioner}/{image_digest[:3]}/{image_digest}.json"
