"""The scene a new embedded node opens on, and the synthetic people who keep it alive (docs/adr/0031).

stories   which households there are, and where each of them is met
cast      the colleagues of whoever looks around: what each step of a case is through the API
life      who acts when: the same rules make the scene and keep it
"""
