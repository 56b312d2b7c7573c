"""Preparing a Kafka cluster for Haven as its administrator: the principals' passwords, and who may do what.

`deploy/kafka/access.toml` says the latter. The administrator's part ends here: from then on `haven topics create` works as
haven_topics, and every process under its own name. `python -m deploy.kafka_access` does it with the settings of a Haven
process (HAVEN_KAFKA, HAVEN_KAFKA_CA_FILE, HAVEN_KAFKA_PREFIX, HAVEN_SECRETS_DIR); again after a password or the file changed.
"""

import argparse
import sys
import time
import tomllib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)
from kafka.errors import KafkaError, SecurityDisabledError, TopicAuthorizationFailedError

from events.kafka.connection import REACH_SECONDS, Broker, BrokerProblem
from events.kafka.layout import Layout
from services.config import BadSetting, Settings, read_settings

ACCESS = Path(__file__).parent / "kafka" / "access.toml"
ADMINISTRATOR = "admin"
OURS = "haven_"
"""How the names of our principals begin; of those this file has the last word, of others none."""
SHORTEST_PASSWORD = 20
"""Characters. Who can read the cluster's metadata can try out passwords as fast as they like."""
MECHANISM = ScramMechanism.SCRAM_SHA_512
EVERYWHERE = "*"


class AccessRefused(Exception):
    """The rules, a password or the cluster are not fit to be used; the message says what to do."""


@dataclass(frozen=True)
class Rule:
    """What one principal may do with some topics or groups. `names` lack the installation's prefix."""

    principal: str
    operations: tuple[ACLOperation, ...]
    kind: ResourceType
    names: tuple[str, ...]
    because: str


def read_rules(file: Path = ACCESS) -> list[Rule]:
    """The rules of an access file. Raises AccessRefused for one that says something else, or something else as well."""
    try:
        return [_rule(entry) for entry in tomllib.loads(file.read_text(encoding="utf-8"))["allow"]]
    except (KeyError, TypeError, AttributeError, ValueError) as failure:
        raise AccessRefused(f"{file} cannot be read as access rules: {type(failure).__name__} {failure}") from None


def _rule(entry: dict[str, object]) -> Rule:
    match entry:
        case {"principal": str(who), "to": [*operations], "topics": [*names], "because": str(why)} if len(entry) == 4:
            kind = ResourceType.TOPIC
        case {"principal": str(who), "to": [*operations], "groups": [*names], "because": str(why)} if len(entry) == 4:
            kind = ResourceType.GROUP
        case _:
            raise ValueError("a rule has principal, to, topics or groups, because")
    if not who.startswith(OURS) or not why or EVERYWHERE in names:
        raise ValueError(f"a rule is about a principal named {OURS}..., names what it is about, and gives a reason")
    chosen = tuple(ACLOperation[str(operation).upper().replace(" ", "_")] for operation in operations)
    return Rule(who, chosen, kind, tuple(map(str, names)), why)


def wanted(rules: Sequence[Rule], layout: Layout) -> set[ACL]:
    """The rules as the entries of Kafka's access control lists."""
    return {
        ACL(
            f"User:{rule.principal}",
            EVERYWHERE,
            operation,
            ACLPermissionType.ALLOW,
            ResourcePattern(rule.kind, layout.topic(name), ACLResourcePatternType.LITERAL),
        )
        for rule in rules
        for operation in rule.operations
        for name in rule.names
    }


def principals(rules: Sequence[Rule] | None = None) -> list[str]:
    """Everybody who needs a password for Kafka."""
    return sorted({rule.principal for rule in (read_rules() if rules is None else rules)})


def apply(broker: Broker, layout: Layout, passwords: Mapping[str, str]) -> list[str]:
    """Makes the cluster's users and rules for our principals those of the file; a line for each change, and for what others
    were given that reaches us. Returns when the cluster goes by it. Repeatable.

    Raises AccessRefused, or a BrokerProblem."""
    rules = read_rules()
    _check(passwords, rules)
    admin = broker.admin("haven-access")
    try:
        there = _entries(admin)
        lines = _set_users(admin, passwords)
        lines += _set_entries(admin, {acl for acl in there if _is_ours(acl)}, wanted(rules, layout))
        _prove_closed(broker, passwords)
        return lines + [
            f"left alone, not in the file: {_told(acl)}" for acl in sorted(there, key=_told) if _reaches(acl, layout)
        ]
    except KafkaError as failure:
        raise broker.problem(failure, "set passwords and access rules") from None
    finally:
        admin.close()


def _check(passwords: Mapping[str, str], rules: Sequence[Rule]) -> None:
    for principal in principals(rules):
        if len(passwords.get(principal, "")) < SHORTEST_PASSWORD:
            raise AccessRefused(
                f"{principal} has no password of at least {SHORTEST_PASSWORD} characters for Kafka: make one with "
                f"`openssl rand -base64 24` in {principal}_kafka_password of HAVEN_SECRETS_DIR"
            )
    if strangers := passwords.keys() - set(principals(rules)):
        raise AccessRefused(
            f"{', '.join(sorted(strangers))}: not in {ACCESS.name}, and so without a password for Kafka"
        )


def _entries(admin: KafkaAdminClient) -> set[ACL]:
    anything = ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY)
    try:
        found, error = admin.describe_acls(ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ANY, anything))
    except SecurityDisabledError:
        raise AccessRefused(
            "this cluster has no authorizer, so everybody may do everything: set authorizer.class.name="
            "org.apache.kafka.metadata.authorizer.StandardAuthorizer for every broker and controller"
        ) from None
    if error is not None and error.errno:
        raise error
    return set(found)


def _set_users(admin: KafkaAdminClient, passwords: Mapping[str, str]) -> list[str]:
    known = {
        (user, info["mechanism"])
        for user, described in admin.describe_user_scram_credentials().items()
        for info in described["credential_infos"]
        if user.startswith(OURS)
    }
    surplus = sorted(known - {(user, MECHANISM) for user in passwords})
    _alter_users(admin, [UserScramCredentialDeletion(user, mechanism) for user, mechanism in surplus])
    # Also those there already: what password they have cannot be seen.
    _alter_users(admin, [UserScramCredentialUpsertion(user, MECHANISM, word) for user, word in passwords.items()])
    lines = [f"user {user}: password set" for user in sorted(passwords)]
    return lines + [f"user {user}: {mechanism.name} taken away" for user, mechanism in surplus]


def _alter_users(
    admin: KafkaAdminClient, alterations: Sequence[UserScramCredentialDeletion | UserScramCredentialUpsertion]
) -> None:
    for user, error in (admin.alter_user_scram_credentials(alterations) if alterations else {}).items():
        if error:
            raise AccessRefused(f"the password of {user} was not changed: {error}")


def _set_entries(admin: KafkaAdminClient, there: set[ACL], rules: set[ACL]) -> list[str]:
    missing, surplus = rules - there, there - rules
    if missing and (failed := admin.create_acls(list(missing))["failed"]):
        raise failed[0]
    if surplus:
        for _, _, error in admin.delete_acls([_exactly(acl) for acl in surplus]):
            if error.errno:
                raise error
    # They were written down by the controller; this broker may go by them a moment later.
    ends = time.monotonic() + REACH_SECONDS
    while {acl for acl in _entries(admin) if _is_ours(acl)} != rules:
        if time.monotonic() > ends:
            raise AccessRefused(f"after {REACH_SECONDS} s this broker does not go by the rules yet: repeat this")
        time.sleep(0.05)
    return [f"given: {_told(acl)}" for acl in sorted(missing, key=_told)] + [
        f"taken: {_told(acl)}" for acl in sorted(surplus, key=_told)
    ]


def _prove_closed(broker: Broker, passwords: Mapping[str, str]) -> None:
    """A broker tells nobody whether it lets everybody do what no rule is about, so one of ours tries it."""
    principal, password = next(iter(passwords.items()))
    unlisted = f"unlisted-{uuid.uuid4()}"
    admin = replace(broker, username=principal, password=password).admin("haven-access")
    try:
        (described,) = admin.describe_topics([unlisted])
    finally:
        admin.close()
    if described["error_code"] != TopicAuthorizationFailedError.errno:
        raise AccessRefused(
            f"this cluster lets {principal} do what no rule allows: see that no broker sets "
            "allow.everyone.if.no.acl.found=true, that super.users names the administrator and the brokers alone, and that no "
            "rule is about User:*"
        )


def _exactly(acl: ACL) -> ACLFilter:
    return ACLFilter(acl.principal, acl.host, acl.operation, acl.permission_type, acl.resource_pattern)


def _is_ours(acl: ACL) -> bool:
    return str(acl.principal).startswith(f"User:{OURS}")


def _reaches(acl: ACL, layout: Layout) -> bool:
    """Whether an entry that is not ours is about something of ours, or about everything."""
    if _is_ours(acl):
        return False
    name, pattern = str(acl.resource_pattern.resource_name), acl.resource_pattern.pattern_type
    if pattern == ACLResourcePatternType.PREFIXED:
        return f"{layout.prefix}.".startswith(name) or name.startswith(f"{layout.prefix}.")
    return name == EVERYWHERE or name.startswith(f"{layout.prefix}.") or str(acl.principal) == "User:*"


def _told(acl: ACL) -> str:
    resource = acl.resource_pattern
    prefixed = "..." if resource.pattern_type == ACLResourcePatternType.PREFIXED else ""
    verb = "may" if acl.permission_type == ACLPermissionType.ALLOW else "must not"
    operation, kind = (word.name.lower().replace("_", " ") for word in (acl.operation, resource.resource_type))
    return f"{acl.principal.removeprefix('User:')} {verb} {operation} {kind} {resource.resource_name}{prefixed}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.kafka_access", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--as",
        dest="who",
        default=ADMINISTRATOR,
        help="a super user of the brokers; its password lies in <name>_kafka_password",
    )
    chosen = parser.parse_args(arguments)
    try:
        settings = read_settings()
        lines = apply(settings.broker(chosen.who), settings.layout, passwords_of(settings))
    except (AccessRefused, BadSetting, BrokerProblem) as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def passwords_of(settings: Settings) -> dict[str, str]:
    """What lies in the password files. Raises BadSetting."""
    return {principal: settings.secret(f"{principal}_kafka_password") for principal in principals()}


if __name__ == "__main__":
    sys.exit(main())
