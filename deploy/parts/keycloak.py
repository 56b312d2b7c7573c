"""One Keycloak with one realm."""

import shutil
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.artifacts import keycloak_command, keycloak_home
from deploy.certificates import LOOPBACK
from deploy.private import random_secret
from deploy.process import Command, Part


class Keycloak(Part):
    """Keycloak with one realm, imported when the folder has none yet; `environment` fills the `${...}` of the realm file."""

    name = "keycloak"
    port_names = ("client", "management")
    start_timeout = 180

    def __init__(
        self, folder: Path | str, realm_file: Path | str, environment: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(folder)
        self.realm_file = Path(realm_file).resolve()
        self.environment = dict(environment or {})
        self.url = f"http://{LOOPBACK}:{self._ports['client']}"
        self.admin_password_file = self.folder / "admin-password"
        random_secret(self.admin_password_file)

    def address(self) -> dict[str, Any]:
        return {"url": self.url, "admin_password_file": str(self.admin_password_file)}

    def _prepare(self) -> Command:
        built = keycloak_home()
        imports = self.folder / "home" / "data" / "import"
        imports.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.realm_file, imports / "realm.json")
        # A home of its own over the shared program, so that two of them do not share their database.
        for name in ("lib", "providers", "themes", "conf"):
            link = self.folder / "home" / name
            link.unlink(missing_ok=True)
            link.symlink_to(built / name)
        command = [*keycloak_command(self.folder / "home"), "start", "--optimized", "--import-realm", "--cache=local"]
        command += ["--http-enabled=true", f"--http-host={LOOPBACK}", f"--http-port={self._ports['client']}"]
        command += [f"--hostname={self.url}", f"--http-management-port={self._ports['management']}"]
        admin = {
            "KC_BOOTSTRAP_ADMIN_USERNAME": "admin",
            "KC_BOOTSTRAP_ADMIN_PASSWORD": self.admin_password_file.read_text(),
        }
        return Command(command, self.folder, environment={**self.environment, **admin})

    def _answers(self) -> bool:
        try:
            # Its readiness on the management port: the realms answer before the import of ours has ended.
            ready = f"http://{LOOPBACK}:{self._ports['management']}/health/ready"
            with urllib.request.urlopen(ready, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
