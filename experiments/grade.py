r"""Grade pictures: do they show the lesion shape that the network was trained on?

    python -m experiments.grade --run=runs/square --task=square_lesion --cohort=DIR \
        --transfer_model=DIR --out=DIR --control=random=RUN --control=shuffled=RUN
    python -m experiments.grade --images=DIR --shape=square --task=square_lesion --cohort=DIR \
        --transfer_model=square-lesion --out=DIR

Every picture of the graded units is named rightly or is not (featvis_jax/evaluation/grading.py), by
a shape classifier that is trained here. Graded are the logits of classes that have a shape, and in
other layers the channels that tell the classes apart best; --list_channels tells which these are.
Writes scores.tsv, summary.tsv, scores.json and scores.png and .pdf; to known.tsv what the same
grade says of drawn pictures, perfect ones and wrong ones of many kinds; and to responses.tsv how
the network itself answers to lesions of other shapes, since a picture can show no more than was
learned.
"""

from featvis_jax.commands.grade import COMMAND
from featvis_jax.commands.launch import start

if __name__ == "__main__":
    start(COMMAND)
