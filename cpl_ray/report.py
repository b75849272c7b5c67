"""One self-contained HTML file that shows a run, sweep or comparison: no network or other file, only its own script.

Texts are escaped by the templates, data by `embedded_json`, charts where they are drawn. The page's own security
policy allows exactly the script and the style sheet below, so even markup that got through would stay inert.
"""

import base64
import hashlib
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cpl_ray import __version__
from cpl_ray.atomic import atomic_write_bytes
from cpl_ray.errors import ConfigError, UserError
from cpl_ray.figures import BLUE, GREEN, ORANGE, PURPLE
from cpl_ray.report_compare import read_comparison
from cpl_ray.report_questions import FLIPS, PART_NAMES
from cpl_ray.report_run import read_run
from cpl_ray.report_source import is_comparison, is_sweep
from cpl_ray.report_sweep import read_sweep
from cpl_ray.rundir import ADDRESS
from cpl_ray.tracking_uri import redact

NAME = "report.html"
_COLOURS = f":root{{--blue:{BLUE};--orange:{ORANGE};--green:{GREEN};--purple:{PURPLE}}}\n"


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of the folder of a run, sweep or comparison, whole or not at all.

    Args:
        folder: holds sweep.json, compare.json, or what `cpl evaluate` writes.
        out: the file; None: `report.html` in the folder.

    Returns:
        The path of the file.

    Raises:
        UserError: the run has not been evaluated, or the file cannot be written.
        DataError: a file of the folder is damaged.
        ConfigError: `out` is a folder, or an address such as `s3://bucket/report.html`.
    """
    if out is not None and ADDRESS.match(str(out)):
        raise ConfigError(f"--out: {redact(str(out))!r} is an address, not a path; name a file, e.g. report.html")
    path = folder / NAME if out is None else out.expanduser().absolute()
    if path.is_dir():
        raise ConfigError(f"--out: {path} is a folder; name a file, e.g. {path / NAME}")
    page = render_report(folder)
    try:
        atomic_write_bytes(path, page.encode("utf-8", errors="replace"))
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); name another file with --out") from error
    return path


def render_report(folder: Path) -> str:
    """Return the page; raises as `write_report`."""
    templates = Environment(
        loader=PackageLoader("cpl_ray"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    loader = templates.loader
    assert loader is not None
    style = _COLOURS + loader.get_source(templates, "report.css")[0]
    script = loader.get_source(templates, "report.js")[0]
    about = {
        "style": Markup(style),
        "script": Markup(script),
        "policy": f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; "
        "base-uri 'none'; form-action 'none'",
        "flips": FLIPS,
        "part_names": list(PART_NAMES.values()),
        "version": __version__,
        "made": f"{datetime.now():%Y-%m-%d %H:%M}",
    }
    if is_sweep(folder):
        return templates.get_template("sweep.html.j2").render(page=read_sweep(folder), **about)
    if is_comparison(folder):
        return templates.get_template("compare.html.j2").render(page=read_comparison(folder), **about)
    return templates.get_template("run.html.j2").render(page=read_run(folder), **about)


def _digest(text: str) -> str:
    """Return the source expression of a content security policy for an inline element with this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
