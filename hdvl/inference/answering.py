"""Makes the answer of a question from what the engine generated."""

from hdvl.inference.answer import Answer, Numbers
from hdvl.inference.asking import open_end
from hdvl.inference.confidence import Calibration, confidence_of
from hdvl.inference.familiarity import Familiarity, unfamiliar
from hdvl.inference.generation import Generation
from hdvl.inference.image_cache import ImageCache
from hdvl.processor import Sample
from hdvl.protocols import Message, Template
from hdvl.views import view_count


def build_answer(
    messages: tuple[Message, ...],
    sample: Sample,
    generation: Generation,
    *,
    template: Template,
    exif: bool,
    image_cache: ImageCache,
    familiarity: Familiarity | None,
    calibration: Calibration | None,
) -> Answer:
    """Return the answer to a conversation.

    Args:
        messages: the conversation.
        sample: what the model read of it.
        generation: the complete answer of the engine.
        template: the template of the model, which reads boxes.
        exif: whether the images were rotated by their EXIF orientation.
        image_cache: the engine's cache of visual tokens.
        familiarity: what the images of the training looked like; ``None`` if the model does not say.
        calibration: the calibration of confidences; ``None`` if the model has none.
    """
    text, usage = generation.text, generation.usage
    sizes = [(plan.width, plan.height) for plan in sample.plans]
    boxes, malformed = template.boxes.decode_with_errors(open_end(messages[-1].text) + text, sizes)
    logprobs = [token.logprob for token in generation.logprobs]
    return Answer(
        text=text,
        boxes=tuple(boxes),
        malformed=tuple(malformed),
        history=(*messages, Message("assistant", text)),
        images=tuple(image for message in sample.read(messages) for image in message.images),
        plans=sample.plans,
        # The statistics are those of whole images.
        unfamiliar=unfamiliar(
            None if sample.unselected_tiles else familiarity, sample, image_cache
        ),
        confidence=confidence_of(logprobs, calibration, boxed=bool(boxes)),
        finish_reason=str(generation.finish_reason),
        numbers=Numbers(
            tiles=view_count(sample.pixels),
            blank_tiles=sample.blank_tiles,
            unselected_tiles=sample.unselected_tiles,
            visual_tokens=sum(image.visual_tokens for image in usage.images),
            prompt_tokens=usage.prompt_tokens,
            new_tokens=usage.new_tokens,
            seconds=usage.seconds,
            cached_tokens=usage.cached_tokens,
        ),
        exif=exif,
    )
