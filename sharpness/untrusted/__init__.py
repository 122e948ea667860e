"""Readers of files of unknown origin.

Threat model. Whoever made a file controls its bytes and its name, knows this code, and wants one of four things:
that code of theirs runs; that a check sees other content than what is loaded afterwards; that a small file takes much
memory, time or output; or that text of theirs acts on a terminal. The machine, the Python environment and code of the
user are trusted, and so are PyTorch, NumPy, Pillow and safetensors with content that passed the checks. That weights
are what their label says is not checked: see SECURITY.md.

* *Code.* Only pickles hold any. :mod:`machine` is the one unpickler, for CIFAR's files and for checkpoints: it knows a
  list of instructions, and calls stand-ins (:mod:`tensors`, :mod:`plain_values`, :mod:`passed_over`) in the place of a
  list of names (:mod:`names`); everything else ends the reading, and a name is never imported. Of a checkpoint it makes
  a rehearsal before ``torch.load(weights_only=True)`` reads the same bytes.
* *Two readings.* A file is opened once, as a regular one (:mod:`regular_files`). Each byte of an archive belongs to one
  entry or the one directory (:mod:`archives`), so that no two readers can disagree about it.
* *Resources.* Instructions, bytes made, values and depth are bounded in proportion to the file: :mod:`machine`,
  :mod:`npz`, :mod:`plain_json`, :mod:`unfolding`, :mod:`keys`. Shapes are checked before anything of them is allocated.
* *Text.* A refusal, :class:`refused.Refused`, shows names of a file only through :func:`sharpness.errors.shown`.

:mod:`checksums` is no defence: it finds accidents in our own files.
"""
