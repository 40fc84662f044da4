"""The agent loop's registered name, alone in a module so that data sets need not import the loop."""

AGENT_NAME = "videoseg"
