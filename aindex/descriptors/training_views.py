"""Views of a picture for training a descriptor: edited wider than any evaluation, by Pillow alone, for its speed."""

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from aindex.edits import augly_repairs
from aindex.edits.random_edit import apply_drawn_edits, draw_random_edits

Rng = np.random.Generator
Edit = Callable[[Image.Image, Rng], Image.Image]
_MAX_SIDE = 512
_MIN_SIDE = 24  # what is smaller is not edited any further


def _color(rng: Rng) -> tuple[int, int, int]:
    """White and black often, as frames and banners are; any colour otherwise."""
    kind = rng.random()
    if kind < 0.35:
        return (255, 255, 255)
    if kind < 0.55:
        return (0, 0, 0)
    r, g, b = (int(value) for value in rng.integers(0, 256, size=3))
    return r, g, b


def random_crop(image: Image.Image, rng: Rng, *, area: tuple[float, float] = (0.15, 0.9)) -> Image.Image:
    """A window of `area` (shares of the whole, smaller ones as likely as larger ones) and a changed aspect ratio."""
    share = rng.uniform(*area)
    ratio = np.exp(rng.uniform(-0.45, 0.45))
    width = max(8, min(image.width, round(image.width * np.sqrt(share * ratio))))
    height = max(8, min(image.height, round(image.height * np.sqrt(share / ratio))))
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _center_crop(image: Image.Image, rng: Rng) -> Image.Image:
    side = np.sqrt(rng.uniform(0.25, 0.9))
    dx, dy = round(image.width * (1 - side) / 2), round(image.height * (1 - side) / 2)
    return image.crop((dx, dy, image.width - dx, image.height - dy))


def _rotate(image: Image.Image, rng: Rng) -> Image.Image:
    degrees = float(rng.uniform(-45, 45) if rng.random() < 0.6 else rng.uniform(-180, 180))
    if rng.random() < 0.7:  # corners filled
        fill = (0, 0, 0) if rng.random() < 0.7 else _color(rng)
        return image.rotate(degrees, Image.Resampling.BILINEAR, expand=True, fillcolor=fill)
    return augly_repairs.augly_function("rotate")(image, degrees=degrees)


def _quarter_turn(image: Image.Image, rng: Rng) -> Image.Image:
    turns = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270, Image.Transpose.ROTATE_180)
    return image.transpose(turns[int(rng.choice(3, p=(0.45, 0.4, 0.15)))])


def _perspective(image: Image.Image, rng: Rng) -> Image.Image:
    width, height = image.size
    shift = rng.uniform(-0.2, 0.2, size=8) * np.tile([width, height], 4)
    quad = np.array([0, 0, 0, height, width, height, width, 0]) + shift
    return image.transform(image.size, Image.Transform.QUAD, quad.tolist(), Image.Resampling.BILINEAR)


def _text(rng: Rng) -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz     !?"
    if rng.random() < 0.4:
        return ("LOL", "WTF", "OMG", "WOW", "MEME", "when you", "me:", "SALE")[int(rng.integers(8))]
    return "".join(letters[int(index)] for index in rng.integers(len(letters), size=rng.integers(2, 16)))


def _font(rng: Rng, size: float) -> ImageFont.FreeTypeFont:
    names = augly_repairs.font_names()
    path = augly_repairs.font_path(names[int(rng.integers(len(names)))])
    return ImageFont.truetype(path, max(6, size), layout_engine=ImageFont.Layout.BASIC)


def _banner(image: Image.Image, rng: Rng) -> Image.Image:
    """A banner with text above (or below) the picture, from a thin line to more than the picture's height."""
    width, height = image.size
    banner = round(height * rng.uniform(0.15, 1.7))
    back = (255, 255, 255) if rng.random() < 0.7 else _color(rng)
    above = rng.random() < 0.8
    canvas = Image.new("RGB", (width, height + banner), back)
    canvas.paste(image, (0, banner if above else 0))
    text = _text(rng)
    size = min(banner * 0.8, 1.6 * width / max(2, len(text)))
    ink = (0, 0, 0) if sum(back) > 380 else (255, 255, 255)
    middle = (width / 2, banner / 2 if above else height + banner / 2)
    font = _font(rng, size)
    ImageDraw.Draw(canvas).text(
        middle, text, fill=ink if rng.random() < 0.8 else _color(rng), font=font, anchor="mm"
    )
    return canvas


def _pad(image: Image.Image, rng: Rng) -> Image.Image:
    if rng.random() < 0.5:
        side = max(image.size)
        return ImageOps.pad(image, (side, side), color=_color(rng))
    left, top, right, bottom = (
        round(float(share) * side)
        for share, side in zip(rng.uniform(0, 0.5, size=4), (image.width, image.height) * 2, strict=True)
    )
    return ImageOps.expand(image, (left, top, right, bottom), fill=_color(rng))


def _interface(canvas: Image.Image, rng: Rng) -> None:
    """Bars, blocks, circles and lines of text, as the windows of programs have them."""
    draw = ImageDraw.Draw(canvas)
    width, height = canvas.size
    grey = int(rng.integers(150, 245)) if sum(canvas.getpixel((0, 0))) > 380 else int(rng.integers(20, 110))  # type: ignore[arg-type]
    for _ in range(int(rng.integers(3, 12))):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        w, h = rng.uniform(0.02, 0.5) * width, rng.uniform(0.01, 0.06) * height
        shade = (grey, grey, grey) if rng.random() < 0.8 else _color(rng)
        if rng.random() < 0.3:
            radius = 0.025 * max(width, height)
            draw.ellipse((x, y, x + 2 * radius, y + 2 * radius), fill=shade)
        else:
            draw.rectangle((x, y, x + w, y + h), fill=shade)


def _place(canvas: Image.Image, image: Image.Image, rng: Rng) -> tuple[int, int]:
    across, down = canvas.width - image.width, canvas.height - image.height
    return int(rng.uniform(0, across + 1)), int(rng.uniform(0, down + 1))


def _screen_frame(image: Image.Image, rng: Rng) -> Image.Image:
    """The picture inside something that looks like a program's window, from a third to most of it."""
    width, height = image.size
    grow_x, grow_y = rng.uniform(1.05, 2.4), rng.uniform(1.05, 2.6)
    back = (250, 250, 250) if rng.random() < 0.7 else _color(rng)
    canvas = Image.new("RGB", (round(width * grow_x), round(height * grow_y)), back)
    _interface(canvas, rng)
    place = _place(canvas, image, rng)
    if rng.random() < 0.4:  # black bars beside the picture, as players and galleries have them
        bar = round(rng.uniform(0, 0.5) * width)
        draw = ImageDraw.Draw(canvas)
        draw.rectangle((place[0] - bar, place[1], place[0] + width + bar, place[1] + height), fill=(0, 0, 0))
    canvas.paste(image, place)
    return canvas


def _overlay_emoji(image: Image.Image, rng: Rng) -> Image.Image:
    names = augly_repairs.emoji_names()
    emoji = Image.open(augly_repairs.emoji_path(names[int(rng.integers(len(names)))])).convert("RGBA")
    side = max(4, round(image.height * rng.uniform(0.2, 0.8)))
    emoji = emoji.resize((side, side))
    mask = emoji.getchannel("A").point([round(value * rng.uniform(0.5, 1)) for value in range(256)])
    place = (int(rng.uniform(-0.1, 0.8) * image.width), int(rng.uniform(-0.1, 0.8) * image.height))
    out = image.copy()
    out.paste(emoji.convert("RGB"), place, mask)
    return out


def _overlay_text(image: Image.Image, rng: Rng) -> Image.Image:
    out = image.copy()
    draw = ImageDraw.Draw(out)
    font = _font(rng, min(image.size) * rng.uniform(0.08, 0.35))
    for _ in range(int(rng.integers(1, 3))):
        place = (rng.uniform(-0.05, 0.7) * image.width, rng.uniform(0, 0.85) * image.height)
        draw.text(place, _text(rng), fill=_color(rng), font=font)
    return out


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance], low: float, high: float) -> Edit:
    """A factor between `low` and `high`, even on the logarithmic scale."""

    def edit(image: Image.Image, rng: Rng) -> Image.Image:
        return kind(image).enhance(float(np.exp(rng.uniform(np.log(low), np.log(high)))))

    return edit


def _hue(image: Image.Image, rng: Rng) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    shift = int(rng.integers(256))
    hue = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def _blur(image: Image.Image, rng: Rng) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 0.035 * max(image.size))))


def _shrink(image: Image.Image, rng: Rng) -> Image.Image:
    """Fewer pixels, smooth or blocky."""
    ratio = rng.uniform(0.12, 0.6)
    size = (max(4, round(image.width * ratio)), max(4, round(image.height * ratio)))
    how = Image.Resampling.BICUBIC if rng.random() < 0.6 else Image.Resampling.NEAREST
    return image.resize(size, Image.Resampling.BILINEAR).resize(image.size, how)


def _jpeg(image: Image.Image, rng: Rng) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=int(rng.integers(4, 60)))
    return Image.open(buffer).convert("RGB")


def _palette(image: Image.Image, rng: Rng) -> Image.Image:
    colors = int(rng.integers(2, 17))
    return image.convert("P", palette=Image.Palette.ADAPTIVE, colors=colors).convert("RGB")


def _noise(image: Image.Image, rng: Rng) -> Image.Image:
    """A share of the pixels takes the values of other pixels."""
    pixels = np.asarray(image).copy()
    flat = pixels.reshape(-1, 3)
    count = int(len(flat) * rng.uniform(0.05, 0.3))
    flat[rng.integers(len(flat), size=count)] = flat[rng.integers(len(flat), size=count)]
    return Image.fromarray(pixels)


_GEOMETRY: dict[Edit, float] = {
    random_crop: 0.22, _center_crop: 0.12, _rotate: 0.2, _quarter_turn: 0.12, _perspective: 0.05,
    _banner: 0.14, _screen_frame: 0.07, _pad: 0.08,
}  # fmt: skip
_APPEARANCE: dict[Edit, float] = {
    _enhance(ImageEnhance.Brightness, 0.25, 3): 0.2,
    _enhance(ImageEnhance.Contrast, 0.25, 3): 0.17,
    _enhance(ImageEnhance.Color, 0.01, 5): 0.12,
    _hue: 0.2,
    lambda image, rng: ImageOps.grayscale(image).convert("RGB"): 0.06,
    _blur: 0.1,
    _shrink: 0.06,
    _jpeg: 0.06,
    _palette: 0.03,
    _noise: 0.04,
    lambda image, rng: image.filter(ImageFilter.EDGE_ENHANCE_MORE): 0.03,
}


def _pick(table: dict[Edit, float], rng: Rng) -> Edit:
    weights = np.fromiter(table.values(), float)
    return list(table)[int(rng.choice(len(weights), p=weights / weights.sum()))]


def _overlay_on(image: Image.Image, background: Image.Image, rng: Rng) -> Image.Image:
    """The picture, smaller and perhaps translucent, somewhere on another one."""
    canvas = background.copy()
    scale = rng.uniform(0.4, 0.85) * min(canvas.width / image.width, canvas.height / image.height)
    small = image.resize((max(8, round(image.width * scale)), max(8, round(image.height * scale))))
    place = _place(canvas, small, rng)
    canvas.paste(small, place, Image.new("L", small.size, int(rng.uniform(190, 256))))
    return canvas


# AugLy's two slow edits go by faster ones of the same look.
_FASTER: dict[str, Edit] = {"overlay_onto_screenshot": _screen_frame, "shuffle_pixels": _noise}


def _drawn(image: Image.Image, rng: Rng) -> Image.Image:
    """The random edit that copies are evaluated with."""
    for edit in draw_random_edits(int(rng.integers(2**62))):
        if min(image.size) < _MIN_SIDE:
            break
        faster = _FASTER.get(edit.name)
        image = faster(image, rng) if faster else apply_drawn_edits(image, [edit])
        image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    return image


def strong_view(image: Image.Image, rng: Rng, backgrounds: Sequence[Image.Image] = ()) -> Image.Image:
    """A view as a copy might look: several edits of several families.

    Args:
        image: RGB, a few hundred pixels a side.
        rng: decides everything.
        backgrounds: other pictures to lay this one on; none are used if empty.
    """
    if rng.random() < 0.3:
        return _drawn(image, rng)
    if rng.random() < 0.15:
        image = ImageOps.mirror(image)
    overlays: list[Edit] = [_overlay_emoji, _overlay_text]
    steps: list[Edit] = [_pick(_APPEARANCE, rng) for _ in range(int(rng.choice(3, p=(0.25, 0.45, 0.3))))]
    if rng.random() < 0.15:
        steps.append(overlays[int(rng.integers(2))])
    steps += [_pick(_GEOMETRY, rng) for _ in range(int(rng.choice(3, p=(0.2, 0.65, 0.15))))]
    rng.shuffle(steps)
    for step in steps:
        if min(image.size) < _MIN_SIDE:
            break
        image = step(image, rng)
        image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    if backgrounds and rng.random() < 0.07:
        image = _overlay_on(image, backgrounds[int(rng.integers(len(backgrounds)))], rng)
    return image


def weak_view(image: Image.Image, rng: Rng) -> Image.Image:
    """A view as an index would hold it: the picture itself, or with little done to it."""
    if rng.random() < 0.5:
        return image
    if rng.random() < 0.5:
        image = random_crop(image, rng, area=(0.5, 1.0))
    if rng.random() < 0.2:
        image = ImageOps.mirror(image)
    if rng.random() < 0.6:
        image = _pick(_APPEARANCE, rng)(image, rng)
    return image
