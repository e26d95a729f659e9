"""``electra-ds doctor``: is this machine, or this allocation, fit to train?

The first rank keeps a small key-value store on a port of its own; every rank brings its facts there. Nothing travels
through the shared file system or a process group, both of which are under test, so that whoever does not answer is
*named* instead of waited for. `command` starts it, `participant` is what every rank does, `coordinator` what the first
one does beside, `judging` the verdicts over all facts, `report` and `preflight` what comes out.
"""
