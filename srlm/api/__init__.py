"""The Python functions behind `import srlm`: score, select pairs, train, read a run, compare models.

They run the code of the commands. Everything that loads a model runs in a separate process, as in a run.
"""
