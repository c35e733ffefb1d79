"""What speaks for and against a picture: measures on networks, pictures and real inputs.

    observing.py    what real inputs, or pictures, do to units and to the layer below them
    paths.py        by which channels of the layers below a unit is driven
    pasting.py      pictures in other people's images
    predicting.py   which of two unseen patches drives a unit more
    verdict.py      the measures of a picture, and the word for them
    anatomy.py      what changes of several people's scans have in common
    brightness.py   does a change of shape stand for one of brightness?

They know nothing of runs and files. A picture that passes all of them is not refuted, and no more:
see docs/trust.md.
"""
