"""The table `[train.text_init]`."""

from typing import Annotated, Literal

from pydantic import Field

from training.options.pretrained import PretrainedConfig


class TextInit(PretrainedConfig):
    """Pretrained weights that the text tower starts from, with their vocabulary, in place of the transformer of `model`.

    Its context length is that of `model`. Sources: word vectors: Arora et al. 2017 (their mean as the baseline of a
    sentence's vector); sentence encoders: Reimers and Gurevych 2019 (Sentence-BERT).
    """

    kind: Literal["words", "bert"]
    """words: a matrix with a vector for each word or token, in .safetensors, .npy or .npz, and beside it a tokenizer.json
    or a list with a word a line (.txt); a text is the mean of its vectors. bert: a folder with a config.json of model_type
    "bert", a tokenizer.json and the weights; a text is the mean of its tokens, or the first one as 1_Pooling/config.json
    states."""
    tokenizer: Annotated[str, Field(min_length=1)] | None = None
    """Name of the tokenizer.json or list of words inside the package or folder; needed if there are several."""
    frozen: bool = True
    """Train only the projector. Without word_dropout, the features of the captions are then computed once."""
