"""The commands over models: `models`, `export`, `sign`, `verify` and `eval`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from flows.commands.options import Json, StoreUri
from infra.local import services


def models(
    name: str | None = None,
    *,
    limit: Annotated[int, Parameter(help="Number of the newest versions to list.")] = 20,
    page: Annotated[
        Path | None, Parameter(help="Also write an HTML page with a plot of the metrics to this file.")
    ] = None,
    json: Json = False,
) -> int:
    """List the versions of a registered model: aliases, metrics, dataset, what changed, and the gate's verdict.

    Args:
        name: A registered model; by default all of them are listed by name.
    """
    from flows.commands.registry.versions import show_models

    return show_models(name, limit, page, as_json=json)


def export(
    model: str,
    *,
    format: Annotated[Literal["open_clip", "hf", "onnx"], Parameter(help="The tool to export for; hf: transformers.")],
    out: Annotated[Path, Parameter(help="Folder to write; it must be empty or not exist yet.")],
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Write a trained model in the format of another tool.

    Args:
        model: A folder with a trained model, the key of a train snapshot, or models:/name/version.
    """
    from flows.commands.export import export as export_model

    return export_model(model, format, out, services.home(), store, as_json=json)


def sign(
    what: str,
    *,
    key: Annotated[
        str,
        Parameter(
            name="--key",
            help="PEM file of the private key, or a PKCS#11 URI without a PIN; with --command, PEM file of the public key.",
        ),
    ],
    command: Annotated[
        str | None,
        Parameter(
            help="Program that signs with a key of a KMS: it gets the message on standard input, and writes its ECDSA"
            " signature to standard output. No shell interprets it."
        ),
    ] = None,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Sign a model or a dataset, with OpenSSF Model Signing.

    Args:
        what: A folder, the key of a snapshot such as a dataset, or a registered model.
    """
    from flows.commands.sign import sign as sign_files
    from tasks.publish.signing_keys import SigningKey

    return sign_files(what, SigningKey(key, command), services.home(), store, as_json=json)


def verify(
    what: str,
    *,
    key: Annotated[str, Parameter(name="--key", help="PEM file of the public key.")],
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Compare every byte of a signed model or dataset with its signature. Exits with 3 if one differs.

    Args:
        what: A folder, the key of a snapshot such as a dataset, or a registered model.
    """
    from flows.commands.sign import verify as verify_files

    return verify_files(what, key, services.home(), store, as_json=json)


def evaluate(
    model: str,
    *,
    suite: Path,
    against: Annotated[
        str | None, Parameter(help="Another model to compare with: better, worse or indistinguishable.")
    ] = None,
    data: Annotated[
        Path | None,
        Parameter(
            help="Folder of the suite's sets; default: the folder of `datasets fetch` if the suite names sources, else"
            " the suite's own folder."
        ),
    ] = None,
    matches: Annotated[
        Path | None, Parameter(help="Parquet table of test images that are in the training data (uid, set, member).")
    ] = None,
    page: Annotated[Path | None, Parameter(help="File to write the HTML page with example images to.")] = None,
    batch_size: Annotated[int, Parameter(help="Number of images per batch.")] = 256,
    device: Annotated[str, Parameter(help="A torch device (cpu, cuda, cuda:1), or auto.")] = "auto",
    precision: Annotated[Literal["fp32", "bf16"], Parameter(help="Precision of the weights.")] = "fp32",
    nproc: Annotated[int, Parameter(help="Number of processes to evaluate in.")] = 1,
    json: Json = False,
) -> int:
    """Evaluate any model on a suite, without a pipeline run.

    Args:
        model: A folder (of pairmill or open_clip), OpenAI's .pt file, or a registered model: NAME/VERSION, NAME@ALIAS.
        suite: TOML file, such as configs/suites/datacomp.toml.
    """
    from flows.commands.evaluate import EvaluateOptions, evaluate
    from tasks.evaluate.job import EvaluationSettings

    settings = EvaluationSettings(batch_size, device, precision, nproc)
    return evaluate(EvaluateOptions(model, suite, against, data, matches, page, settings), as_json=json)
