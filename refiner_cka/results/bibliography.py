"""What a paper cites that uses a result, as BibTeX."""

from __future__ import annotations

import re

from .record import Record
from .result import Result

_VERSION = re.compile(r"[\w.+-]{1,40}", re.ASCII)

CKA = """@inproceedings{kornblith2019similarity,
  title     = {Similarity of Neural Network Representations Revisited},
  author    = {Kornblith, Simon and Norouzi, Mohammad and Lee, Honglak and Hinton, Geoffrey},
  booktitle = {Proceedings of the 36th International Conference on Machine Learning},
  series    = {Proceedings of Machine Learning Research},
  volume    = {97},
  pages     = {3519--3529},
  year      = {2019}
}"""

MINIBATCH = """@inproceedings{nguyen2021wide,
  title     = {Do Wide and Deep Networks Learn the Same Things? {Uncovering} How Neural Network
               Representations Vary with Width and Depth},
  author    = {Nguyen, Thao and Raghu, Maithra and Kornblith, Simon},
  booktitle = {International Conference on Learning Representations},
  note      = {arXiv:2010.15327},
  year      = {2021}
}"""

HSIC = """@article{song2012feature,
  title   = {Feature Selection via Dependence Maximization},
  author  = {Song, Le and Smola, Alex and Gretton, Arthur and Bedo, Justin and Borgwardt, Karsten},
  journal = {Journal of Machine Learning Research},
  volume  = {13},
  pages   = {1393--1434},
  year    = {2012}
}"""

HOLM = """@article{holm1979simple,
  title   = {A Simple Sequentially Rejective Multiple Test Procedure},
  author  = {Holm, Sture},
  journal = {Scandinavian Journal of Statistics},
  volume  = {6},
  number  = {2},
  pages   = {65--70},
  year    = {1979}
}"""

REFINER = """@misc{zhou2021refiner,
  title  = {Refiner: Refining Self-attention for Vision Transformers},
  author = {Zhou, Daquan and Shi, Yujun and Kang, Bingyi and Yu, Weihao and Jiang, Zihang and Li, Yuan
            and Jin, Xiaojie and Hou, Qibin and Feng, Jiashi},
  note   = {arXiv:2106.03714},
  year   = {2021}
}"""

INDICES = {
    "rsa": """@article{kriegeskorte2008representational,
  title   = {Representational Similarity Analysis -- Connecting the Branches of Systems Neuroscience},
  author  = {Kriegeskorte, Nikolaus and Mur, Marieke and Bandettini, Peter},
  journal = {Frontiers in Systems Neuroscience},
  volume  = {2},
  number  = {4},
  year    = {2008}
}""",
    "knn": """@misc{huh2024platonic,
  title  = {The Platonic Representation Hypothesis},
  author = {Huh, Minyoung and Cheung, Brian and Wang, Tongzhou and Isola, Phillip},
  note   = {arXiv:2405.07987},
  year   = {2024}
}""",
}
"""Of the similarity indices beside CKA that have a paper of their own."""


def bibtex(result: Result) -> str:
    """Return BibTeX entries of what a result rests on: CKA, its estimator, corrections, this tool, Refiner.

    The keys are those that the text for a methods section names.
    """
    record = Record(result)
    entries = [CKA, MINIBATCH, HSIC, HOLM]
    entries += [entry for name, entry in INDICES.items() if name in result.indices]
    entries += [REFINER] if any(map(record.is_refiner, result.models)) else []
    return "\n\n".join([*entries, citation(record.version("refiner-cka"))]) + "\n"


def citation(version: str) -> str:
    """Return the BibTeX entry of this tool.

    Args:
        version: which one was used; left out of the entry if it is none.
    """
    # What is no version is not put into a document that somebody compiles.
    found = _VERSION.fullmatch(version)
    note = [f"  note   = {{Version {found[0]}}}"] if found else []
    fields = [
        "  title  = {{refiner-cka}: minibatch {CKA} over depth}",
        "  author = {{refiner-cka contributors}}",
        *note,
    ]
    return "@misc{refinercka,\n" + ",\n".join(fields) + "\n}"
