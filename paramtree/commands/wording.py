"""What the messages of the package advise, in the terms of the command line: options, not arguments."""

import re

_WORDINGS = [
    (re.compile(pattern), wording)
    for pattern, wording in (
        (r" Pass allow_empty=True where nothing is a good answer\.", ""),
        (r", or map_params it", ""),
        (
            r"these names cannot be nested:(\n  .*)+",
            r"\g<0>\nparamtree convert --rename writes a file with others.",
        ),
        (r"set jax_enable_x64 first", "set JAX_ENABLE_X64=1 in the environment"),
        (r"pt\.cast it", "--cast it"),
        (r"Pass (like|heads)=[^.\n]*\.", r"In Python, pt.renaming takes `\1`."),  # of a ready set
        (r"blocks= does not fit", "--rename does not fit"),
        (r"(?<![-'\w])(rename|cast)=\{'([^']*)': (?:'([^']*)'|None)\}", r"--\1 '\2=\3'"),
        (r"(?<![-'\w])(like|rename|cast|select)=", r"--\1"),
    )
]


def in_options(text: str) -> str:
    """Say with options what a message of the package says with arguments.

    >>> in_options("the file has int8; cast={'w': 'int32'} converts it"), in_options("pass like=, a tree")
    ("the file has int8; --cast 'w=int32' converts it", 'pass --like, a tree')
    """
    for pattern, wording in _WORDINGS:
        text = pattern.sub(wording, text)
    return text
