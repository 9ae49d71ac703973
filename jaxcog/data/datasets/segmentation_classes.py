"""Class names and colours of the scene-parsing datasets."""

from __future__ import annotations

Colour = tuple[int, int, int]


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.replace("\n", " ").split(","))


def _colour(red: int, green: int, blue: int) -> Colour:
    return red, green, blue


def _colours(text: str) -> tuple[Colour, ...]:
    """ "804080 F423E8" -> ((128, 64, 128), (244, 35, 232))."""
    return tuple(_colour(*bytes.fromhex(word)) for word in text.split())


def voc_colours(count: int) -> tuple[Colour, ...]:
    """The colour map of PASCAL VOC: the bits of an index dealt to red, green and blue in turn.

    Pascal Context and COCO-Stuff have no colours of their own that all tools agree on.
    """

    def colour(index: int) -> Colour:
        channels = [0, 0, 0]
        for i in range(8):
            for channel in range(3):
                channels[channel] |= ((index >> (3 * i + channel)) & 1) << (7 - i)
        return _colour(*channels)

    return tuple(colour(i) for i in range(count))


CITYSCAPES = _names(
    """road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation,
    terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle"""
)
CITYSCAPES_COLOURS = _colours(
    """804080 F423E8 464646 66669C BE9999 999999 FAAA1E DCDC00 6B8E23 98FB98 4682B4 DC143C FF0000
    00008E 000046 003C64 005064 0000E6 770B20"""
)

CAMVID = _names(
    """sky, building, column-pole, road, sidewalk, tree, sign-symbol, fence, car, pedestrian,
    bicyclist"""
)
CAMVID_COLOURS = _colours(
    "808080 800000 C0C080 804080 3C28DE 808000 C08080 404080 400080 404000 0080C0"
)

ADE20K = _names(
    """wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk,
    person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf,
    house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub,
    railing, cushion, base, box, column, signboard, chest of drawers, counter, sand, sink,
    skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table,
    pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower,
    book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar,
    arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth,
    television receiver, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman,
    bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything,
    swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food,
    step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket,
    sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate,
    monitor, bulletin board, shower, radiator, glass, clock, flag"""
)
ADE20K_COLOURS = _colours(
    """787878 B47878 06E6E6 503232 04C803 787850 8C8C8C CC05FF E6E6E6 04FA07 E005FF EBFF07 96053D
    787846 08FF33 FF0652 8FFF8C CCFF04 FF3307 CC4603 0066C8 3DE6FA FF0633 0B66FF FF0747 FF09E0
    0907E6 DCDCDC FF095C 7009FF 08FFD6 07FFE0 FFB806 0AFF47 FF290A 07FFFF E0FF08 6608FF FF3D06
    FFC207 FF7A08 00FF14 FF0829 FF0599 0633FF EB0CFF A09614 00A3FF 8C8C8C FA0A0F 14FF00 1FFF00
    FF1F00 FFE000 99FF00 0000FF FF4700 00EBFF 00ADFF 1F00FF 0BC8C8 FF5200 00FFF5 003DFF 00FF70
    00FF85 FF0000 FFA300 FF6600 C2FF00 008FFF 33FF00 0052FF 00FF29 00FFAD 0A00FF ADFF00 00FF99
    FF5C00 FF00FF FF00F5 FF0066 FFAD00 FF0014 FFB8B8 001FFF 00FF3D 0047FF FF00CC 00FFC2 00FF52
    000AFF 0070FF 3300FF 00C2FF 007AFF 00FFA3 FF9900 00FF0A FF7000 8FFF00 5200FF A3FF00 FFEB00
    08B8AA 8500FF 00FF5C B800FF FF001F 00B8FF 00D6FF FF0070 5CFF00 00E0FF 70E0FF 46B8A0 A300FF
    9900FF 47FF00 FF00A3 FFCC00 FF008F 00FFEB 85FF00 FF00EB F500FF FF007A FFF500 0ABED4 D6FF00
    00CCFF 1400FF FFFF00 0099FF 0029FF 00FFCC 2900FF 29FF00 AD00FF 00F5FF 4700FF 7A00FF 00FFB8
    005CFF B8FF00 0085FF FFD600 19C2C2 66FF00 5C00FF"""
)

PASCAL_CONTEXT = _names(
    """background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, table, dog,
    horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor, bag, bed, bench, book,
    building, cabinet, ceiling, cloth, computer, cup, door, fence, floor, flower, food, grass,
    ground, keyboard, light, mountain, mouse, curtain, platform, sign, plate, road, rock, shelves,
    sidewalk, sky, snow, bedclothes, track, tree, truck, wall, water, window, wood"""
)

COCO_STUFF = _names(
    """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
    fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant,
    bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard,
    sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle,
    wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
    hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock,
    vase, scissors, teddy bear, hair drier, toothbrush, banner, blanket, branch, bridge,
    building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other, ceiling-tile, cloth,
    clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble,
    floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit,
    furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal,
    mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic,
    platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea,
    shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table,
    tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel,
    wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood"""
)
COCO_STUFF_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""Ids of 1..182 that were never annotated; the other 171 are the classes, in order."""

PASCAL_CONTEXT_COLOURS = voc_colours(len(PASCAL_CONTEXT))
COCO_STUFF_COLOURS = voc_colours(len(COCO_STUFF) + 1)[1:]
