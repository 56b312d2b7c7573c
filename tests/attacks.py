"""The attacks that pages and API are tried with, by number: a test names what it shows with `@pytest.mark.attack(number, ...)`.

After OWASP ASVS 5.0.0 and the OWASP API Security Top 10 (2023), FAPI 2.0 Security Profile, RFC 9700 (OAuth security), RFC 9449 (DPoP), RFC 9068
(access tokens), RFC 8725 (JWT), RFC 7636 (PKCE), RFC 9112 (HTTP/1.1), the Idempotency-Key draft, and the published flaws of the libraries we
use. `python -m tests.test_attacks` writes docs/attacks.md from this list and the tests.
"""

from collections.abc import Iterator, Mapping

_TOKENS = """
 1 no token
 2 a token that says it is not signed (`alg: none`, in any spelling)
 3 the public key used as a shared secret
 4 the attacker's own key, carried in the token
 5 a key to be fetched from the attacker (`jku`, `x5u`)
 6 a key id that is a path or a statement
 7 a critical extension nobody knows (`crit`)
 8 another issuer, or nearly ours
 9 a token for somebody else, or for nobody
10 a token that has expired, or is not good yet
11 an ID token, or any other kind of token
12 a refresh token
13 a token, or a person, revoked a second ago
14 a token of hundreds of megabytes, or nested ten thousand deep
15 an encrypted token that grows when it is opened
16 a name twice in a token, or two tokens in a request
17 a token in the address or in a form
18 a key that was taken out of service, or an issuer that is down
"""
_SENDERS = """
19 a stolen token without the proof that its sender holds the key
20 ... with a proof of the thief's own key
21 a proof for another method or address
22 a proof for another token
23 a proof sent twice, also to another gateway
24 a proof that is old, or made for later
25 a private key, or a shared secret, in a proof
26 a bound token sent as if it were not
27 headers that only a proxy may set
"""
_SIGN_IN = """
28 a code used twice
29 a code older than a minute
30 a sign-in without PKCE, with a weaker one, or with a wrong verifier
31 an address to come back to that is nearly ours
32 an address of ours that leads elsewhere
33 somebody else's answer of the issuer
34 an answer of another issuer
35 a sign-in request whose parameters were not sent ahead (PAR)
36 a session planted before the sign-in, or used after its end
37 a form sent by another site
"""
_RIGHTS = """
38 a case, ask or unit of others, by its id
39 the beds of other shelters
40 a sealed field before it is released
41 what another role may do
42 more fields than a body has: organisation, stage, who confirmed it
43 fields in an answer that are not for the reader; sorting or choosing by them
44 telling what is not yours from what is not there
45 one person for the two that must sign
46 reading on after a right has ended
47 a cursor or a page size of one's own making
"""
_INPUT = """
48 bodies too large, without length, a byte at a time; too many headers
49 JSON nested 10^5 deep; NaN, 1e400, integers beyond 2^63, true for one
50 text that is no UTF-8, reads backwards, hides something, looks like other text
51 another type, method, host or path than is meant
52 line breaks in headers, file names and log lines
53 a request hidden in another
54 SQL, templates and formulas in any field
55 having the gateway fetch an address of the attacker's
56 dates that do not exist, or cannot be counted with
"""
_BUSINESS = """
57 an Idempotency-Key for something else, of somebody else, a thousand times at once
58 a thousand claims on one bed
59 verbs out of order, or a moment too late
60 walking through ids; keeping every bed on hold
61 asking more often than anybody needs; a limiter that is down
62 working out one household from figures
63 a message to a telephone that says who or where
64 an answer that is kept, told apart by a mark, or says how it was made
65 old versions, debug pages, and what is open to all
"""


def _read(text: str) -> Iterator[tuple[int, str]]:
    for line in text.strip().splitlines():
        number, name = line.split(maxsplit=1)
        yield int(number), name


GROUPS: Mapping[str, Mapping[int, str]] = {
    "Tokens": dict(_read(_TOKENS)),
    "Who sends a token": dict(_read(_SENDERS)),
    "Signing in, and sessions": dict(_read(_SIGN_IN)),
    "Rights": dict(_read(_RIGHTS)),
    "Input": dict(_read(_INPUT)),
    "What Haven is for": dict(_read(_BUSINESS)),
}
ATTACKS: Mapping[int, str] = {number: name for group in GROUPS.values() for number, name in group.items()}

REASONS: Mapping[int, str] = {
    12: "Haven gives out none, and takes none: a sign-in is asked for anew.",
    24: "Nonces of the server are not used: a proof is good for a minute, once, at all gateways.",
    35: "Not offered: the demo sign-in serves one client of its own on one machine, with an address registered to the letter, "
    "state and PKCE; for an identity provider elsewhere it is a setting there.",
    46: "There are no agreements between organisations. What ends is being asked, travelling with a case, and being let in.",
    55: "Nobody who uses Haven can name an address for it to fetch. The operator names the issuer and whom to ring.",
    61: "What a person asks is counted in memory: there is no store that can be down. Beds are counted for all gateways in the database "
    "that the request goes to; what cannot be counted is let through. Addresses are counted by the proxy.",
}
"""Where an attack does not apply, or not in full: why."""
