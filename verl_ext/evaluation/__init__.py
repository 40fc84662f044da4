"""``videoseg eval`` without its command line: targets, settings, ``run.json``, the run itself, scores.

May import `recipe`, `policy`, `scoring`, `run` and ``eval``. Public: `job.run`, `job.Request`,
`settings.inference_settings`, `backend.Backend`.
"""
