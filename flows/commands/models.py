"""The commands over models: measure them, bring what measures them, write them for others' tools."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from flows.commands.options import Json, StoreUri
from infra.local import services


def export(
    model: str,
    *,
    format: Annotated[Literal["open_clip", "hf", "onnx"], Parameter(help="Whose form; hf is transformers'.")],
    out: Annotated[Path, Parameter(help="A folder that is empty or not there yet.")],
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Write a trained model in the form of others' tools.

    Args:
        model: a folder of a finished model, the key of a train snapshot, or models:/name/version.
    """
    from flows.commands.export import export as write_export

    return write_export(model, format, out, services.home(), store, as_json=json)


def evaluate(
    model: str,
    *,
    suite: Path,
    against: Annotated[str | None, Parameter(help="Another model: better, worse or not distinguishable?")] = None,
    data: Annotated[
        Path | None, Parameter(help="Folder of the sets; default: where `datasets fetch` puts them.")
    ] = None,
    matches: Annotated[
        Path | None, Parameter(help="Table of test images that are in training (uid, set, member).")
    ] = None,
    page: Annotated[Path | None, Parameter(help="Write the page with pictures to this file.")] = None,
    batch_size: Annotated[int, Parameter(help="Images at once.")] = 256,
    device: Annotated[str, Parameter(help="A torch device (cpu, cuda, cuda:1), or auto.")] = "auto",
    precision: Annotated[Literal["fp32", "bf16"], Parameter(help="Of the weights.")] = "fp32",
    nproc: Annotated[int, Parameter(help="Processes that share out the work.")] = 1,
    json: Json = False,
) -> int:
    """Evaluate any model on a suite, without a pipeline.

    Args:
        model: a folder (ours or open_clip's), OpenAI's .pt file, or a registered model: NAME/VERSION, NAME@ALIAS.
        suite: TOML file, as configs/suites/datacomp.toml.
    """
    from flows.commands.evaluate import EvaluateOptions, evaluate
    from tasks.evaluate.run_suite import Settings

    settings = Settings(batch_size, device, precision, nproc)
    return evaluate(EvaluateOptions(model, suite, against, data, matches, page, settings), as_json=json)


def fetch(
    suite: Path,
    *,
    data: Annotated[Path | None, Parameter(help="Folder for the sets; default: .pairmill/datasets.")] = None,
    json: Json = False,
) -> int:
    """Bring a suite's sets from the Hub, whole and checked; say which cannot be had.

    Args:
        suite: TOML file, as configs/suites/datacomp.toml.
    """
    from flows.commands.evaluate import fetch as bring

    return bring(suite, data, as_json=json)
