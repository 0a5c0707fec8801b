"""Checks of certificates, keys and tokens: mounted where settings say, and enough for the suite to call itself."""

from __future__ import annotations

from collections.abc import Iterator

from services.runtime.config import setting_names
from tests.k8s.cluster import required_secrets
from tests.k8s.objects import Object, Objects, Pod
from tests.k8s.pods import SERVICES, SETTINGS, deployables

_ASKED_FOR = {
    "KLINECAST_TLS__CERTIFICATE_FILE": "KLINECAST_CLIENT__CA_FILE",
    "KLINECAST_TLS__CLIENT_CA_FILE": "KLINECAST_CLIENT__CERTIFICATE_FILE",
    "KLINECAST_AUTH__TOKENS_FILE": "KLINECAST_CLIENT__TOKEN_FILE",
    "KLINECAST_AUTH__JWKS_FILE": "KLINECAST_CLIENT__TOKEN_FILE",
}
"""What a service asks of whoever calls it, and the setting by which a caller has it."""


def check_files(objects: Objects) -> list[str]:
    """Each file that a setting names is a key of a Secret that is mounted there."""
    problems = []
    for pod, container, module in deployables(objects):
        mounted = set(_mounted_files(pod, container))
        for name in sorted(setting_names(SETTINGS[module])):
            path = objects.environment(container).get(name)
            if path is not None and path.startswith("/") and path not in mounted:
                problems.append(f"{pod.owner}: {name} names {path}, which is no key of a mounted Secret")
    return problems


def _mounted_files(pod: Pod, container: Object) -> Iterator[str]:
    secrets = {one["name"]: one["secret"] for one in pod.spec.get("volumes", []) if "secret" in one}
    for mount in container.get("volumeMounts", []):
        if (secret := secrets.get(mount["name"])) is not None:
            keys = required_secrets().get(secret["secretName"], [])
            for path in [item["path"] for item in secret.get("items", [])] or keys:
                yield f"{mount['mountPath']}/{path}"


def check_callers(objects: Objects) -> list[str]:
    """Those that call services have what these ask for."""
    running = [(pod, objects.environment(container), module) for pod, container, module in deployables(objects)]
    asked = {name for _, environment, module in running if module in SERVICES for name in environment}
    problems = []
    for pod, environment, module in running:
        wanted = {mine for theirs, mine in _ASKED_FOR.items() if theirs in asked} & setting_names(SETTINGS[module])
        problems += [f"{pod.owner}: calls services without {name}" for name in sorted(wanted - set(environment))]
    return problems


CHECKS = {"files of settings are mounted": check_files, "the suite may call itself": check_callers}
