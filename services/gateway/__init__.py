"""The gateway: accepts intent, shows what happened, and lets nobody see more than they must.

`api` the HTTP face          `access` who may call and see what     `bodies` untrusted input       `problems` every no
`intake` intent to log       `projection`, `read_model` what is shown     `audit_routes`, `erasure` sealed fields
`tokens`, `key_set`, `token_errors`, `principals` who is calling        `openapi` the published contract
`authorization_server`, `oauth_grants`, `sign_in`, `revocations`, `node_secrets` the demo sign-in
"""
