"""Generic sentences for findings that no bank covers: correct for any name, poorer than written captions."""

from __future__ import annotations

from collections.abc import Sequence

IMAGE_WORDS = {
    "xray": "X-ray",
    "ct": "CT scan",
    "mri": "MRI scan",
    "ultrasound": "ultrasound image",
    "mammography": "mammogram",
    "pathology": "histopathology image",
    "cytology": "cytology image",
    "microscopy": "microscopy image",
    "fundus": "fundus photograph",
    "oct": "OCT scan",
    "dermoscopy": "dermoscopy image",
    "endoscopy": "endoscopy image",
    "pet": "PET scan",
}
CAPTIONS = (
    "{Image} showing {finding}.",
    "{Image} with {finding}.",
    "{Image}, {finding}.",
    "This {image} demonstrates {finding}.",
    "The {image} reveals {finding}.",
    "The finding on this {image} is {finding}.",
    "The appearance of this {image} is that of {finding}.",
    "Label of the {image}, {finding}.",
    "An example of {finding} on {an_image}.",
    "Seen on this {image}, {finding}.",
)
PROMPTS = {
    "plain": ("{an_image} of {finding}", "{finding} seen in {an_image}", "a picture of {finding}, {image}"),
    "report": (
        "Impression of the {image} is {finding}.",
        "The {image} was read as {finding}.",
        "Conclusion after {an_image}, {finding}.",
    ),
    "signs": (
        "{an_image} with the typical signs of {finding}",
        "appearances on {an_image} are characteristic of {finding}",
        "features of {finding} are visible on the {image}",
    ),
}
DENIALS = (
    "{Image} without {findings}.",
    "No evidence of {findings} on this {image}.",
    "The {image} shows no {findings}.",
    "Negative for {findings}, {image}.",
)


def captions(modality: str, anatomy: str | None, finding: str) -> tuple[str, ...]:
    """Generic training captions of one finding."""
    return _filled(CAPTIONS, modality, anatomy, finding=_phrase(finding))


def prompts(modality: str, anatomy: str | None, finding: str, kind: str) -> tuple[str, ...]:
    """Generic test prompts of one finding in one set."""
    return _filled(PROMPTS[kind], modality, anatomy, finding=_phrase(finding))


def denials(modality: str, anatomy: str | None, findings: Sequence[str]) -> tuple[str, ...]:
    """Sentences that deny every one of `findings`."""
    *first, last = findings
    return _filled(DENIALS, modality, anatomy, findings=f"{', '.join(first)} or {last}" if first else last)


def _filled(frames: Sequence[str], modality: str, anatomy: str | None, **names: str) -> tuple[str, ...]:
    image = IMAGE_WORDS.get(modality, "medical image") + (f" of the {anatomy}" if anatomy else "")
    article = "an" if image.startswith(("X-ray", "MRI", "OCT", "ultra", "endo")) else "a"
    words = {"an_image": f"{article} {image}", "image": image, "Image": image[0].upper() + image[1:], **names}
    return tuple(frame.format(**words) for frame in frames)


def _phrase(finding: str) -> str:
    return "normal appearances" if finding == "normal" else finding
