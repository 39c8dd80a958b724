"""`pairmill bom`: writes the bill of materials of a model in CycloneDX."""

import json as json_
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dataops.errors import ConfigError, writing
from dataops.formatting import format_quantity
from flows.commands.options import Json, Name, StoreUri
from flows.commands.output import console, print_json
from infra.local import services
from plugins.disclosure.bom import SPECIFICATION, write_bom
from plugins.disclosure.subject import find_subject


def command(
    model: Name,
    *,
    out: Annotated[Path, Parameter(help="File to write, such as model.cdx.json.")],
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Write the bill of materials of a model (ML-BOM) in CycloneDX: its datasets, pretrained weights and software.

    Args:
        model: The key of a train snapshot, a run that trained, or a registered model (NAME/VERSION, NAME@ALIAS).
    """
    if out.suffix != ".json":
        raise ConfigError(f"--out {out}: its name must end in .json, such as model.cdx.json")
    subject = find_subject(model, services.home(), store)
    document = write_bom(subject)
    with writing(out):
        out.write_text(document, "utf-8")
    components = [{"type": one["type"], "name": one["name"]} for one in json_.loads(document)["components"]]
    if json:
        report = {"model": subject.name, "out": str(out), "specification": f"CycloneDX {SPECIFICATION}"}
        print_json(report | {"components": components})
        return 0
    screen = console()
    counted = format_quantity(len(components), "component")
    screen.write(f"{subject.name}: CycloneDX {SPECIFICATION}, valid, {counted}")
    for one in components:
        screen.write(f"  {one['type']} {one['name']}")
    screen.write(f"wrote {out}")
    return 0
