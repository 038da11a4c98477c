"""``newel export``: write the files that launch a plan on a runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.terminal import emit_json, say
from planner.errors import InputError

if TYPE_CHECKING:
    pass


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export)


def export(  # noqa: PLR0913, PLR0917 - one parameter per option of the command
    plan: Annotated[Path, typer.Argument(help="The plan, a JSON file.")],
    to: Annotated[str, typer.Option("--to", help="Runtime: vllm, kubernetes, ...")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; it must not exist yet.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the folder if it exists.")] = False,
    model_path: Annotated[
        list[str] | None,
        typer.Option("--model-path", help="What to load: PATH, or MODEL=PATH where there are several."),
    ] = None,
    node: Annotated[
        list[str] | None, typer.Option("--node", help="Where a node is reached: NODE=ADDRESS.")
    ] = None,
    pin: Annotated[bool, typer.Option("--pin/--no-pin", help="Tie pods to the nodes of the plan.")] = True,
    port: Annotated[int, typer.Option("--port", min=1024, max=65000, help="First port to listen on.")] = 8000,
    image: Annotated[str | None, typer.Option("--image", help="Container image of the engine.")] = None,
    router_image: Annotated[
        str | None, typer.Option("--router-image", help="Container image of the router.")
    ] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", help="Kubernetes namespace.")] = None,
    request_priorities: Annotated[
        bool, typer.Option("--request-priorities", help="Serve requests by the priority they bring.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list of files as JSON.")] = False,
) -> None:
    """Write the files that launch a plan, checked against the rules of the runtime."""
    from planner.backends import BACKENDS, ExportOptions, export_files, write_folder
    from planner.plan.serialize import read_plan

    backend = BACKENDS.get(to)
    loaded = read_plan(plan)
    models = sorted({pool.model for pool in loaded.pools})
    options = ExportOptions(
        model_paths=tuple(_pair(text, "--model-path", models) for text in model_path or []),
        addresses=tuple(_pair(text, "--node", []) for text in node or []),
        pin_nodes=pin,
        base_port=port,
        image=image,
        router_image=router_image,
        namespace=namespace,
        request_priorities=request_priorities,
    )
    files = export_files(backend, loaded, options)
    write_folder(out, files, force=force)
    if as_json:
        emit_json({"folder": str(out), "backend": to, "files": [f.path for f in files]})
    else:
        say(f"wrote {len(files)} files to {out}; start with {out / 'README.md'}")


def _pair(text: str, option: str, alone: list[str]) -> tuple[str, str]:
    """Split NAME=VALUE; a VALUE alone stands for the only name there is."""
    name, equals, value = text.partition("=")
    if equals and name and value:
        return name, value
    if not equals and len(alone) == 1 and text:
        return alone[0], text
    raise InputError("this is not NAME=VALUE", key=option, value=text)
