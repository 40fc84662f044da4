"""The command line ``videoseg``; each command imports what it needs when it runs, so that ``--help`` is instant.

May import every room, and nothing imports it. Public: `main.app`.
"""
