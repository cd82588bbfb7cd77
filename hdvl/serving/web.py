"""The files of the web page. All it shows comes from this server."""

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import FileResponse, JSONResponse, Response

from hdvl.serving.errors import APIError

FOLDER = Path(__file__).resolve().parent / "page"
EXAMPLES = Path(__file__).resolve().parents[1] / "assets"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
# Nothing from elsewhere is loaded, whatever a model writes; images of the user are blob: and data: URLs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_page(app: FastAPI) -> None:
    """Add the page at ``/``, its files and its example images."""
    files = {path.name: path for path in FOLDER.iterdir() if path.suffix in KINDS}
    shown = {path.name: path for path in sorted(EXAMPLES.glob("*.png"))}

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return _file(FOLDER / "index.html")

    @app.get("/page/examples", include_in_schema=False)
    async def names() -> Response:
        return JSONResponse(list(shown))

    @app.get("/page/examples/{name}", include_in_schema=False)
    async def example(name: str) -> Response:
        return _found(shown, name)

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        return _found(files, name)


def _found(files: dict[str, Path], name: str) -> Response:
    if name not in files:
        raise APIError(404, f"the page has no file {name[:60]!r}")
    return _file(files[name])


def _file(path: Path) -> Response:
    headers = {
        "Content-Security-Policy": POLICY,
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return FileResponse(path, media_type=KINDS.get(path.suffix), headers=headers)
