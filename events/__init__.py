"""The contracts services speak in, and the log they are kept in.

`vocabulary`  codes and small values              `gateway`, `placement`, `capacity`  what each service says
`envelope`    how an event travels and is written `sealing`  personal fields under a household's own key
`log`         the append-only store, the inbox of what was consumed, the runner of deciders and the follower
"""
