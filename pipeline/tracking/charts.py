"""Pictures among MLflow's charts: files whose names MLflow's page reads, beside the picture itself."""

from __future__ import annotations

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.tracking import MlflowClient
from PIL import Image

FOLDER, TAG = "images", "mlflow.loggedImages"
"""Where MLflow's page looks for images, and the tag that tells it to."""
SMALL = 256
"""Pixels of the longer side of the small copy, which is shown until somebody looks closer."""


def log_chart(client: MlflowClient, run: str, path: Path) -> None:
    """Show a PNG file among a run's charts, with a small copy, under the names that ``client.log_image`` gives.

    That function draws a new name at each call. Here a name depends on the file's alone, so that a picture that is sent
    again is replaced.
    """
    key = hashlib.sha256(path.stem.encode()).hexdigest()[:32]
    name = f"{path.stem}+step+0+timestamp+0+{key[:8]}-{key[8:12]}-{key[12:16]}-{key[16:20]}-{key[20:]}"
    with TemporaryDirectory() as folder:
        whole, small = Path(folder, f"{name}.png"), Path(folder, f"{name}+compressed.webp")
        whole.write_bytes(path.read_bytes())
        with Image.open(path) as image:
            image.thumbnail((SMALL, SMALL))
            image.save(small)
        for file in (whole, small):
            client.log_artifact(run, str(file), FOLDER)
    client.set_tag(run, TAG, "True")
