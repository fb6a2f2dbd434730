"""Speed that can be believed: two models timed against each other, and what may be said about the outcome.

bench        starts the launches and puts the answer together
sides        reads both models and finds inputs that fit both
timing       a launch: the process that runs them, and imports little
statistics   intervals, and the rule by which a claim is made or refused
profile      the kernels that really ran
outputs      what the timed runs gave out, compared
claim        the answer, held against outputs, kernels and the machine's peak
"""
