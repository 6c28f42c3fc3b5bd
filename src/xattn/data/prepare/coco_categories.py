"""Which words of a caption name one of COCO's 80 categories: the list of synonyms, and how captions are matched with
it.

A name of several words counts before its parts, the longest first, so that a hot dog is no dog and a teddy bear no
bear; names that hold a category's word and mean something else (`train station`, `toilet paper`) are matched too, and
name nothing. Plurals are the regular ones and those of the list below. A word that stands for several categories
(`bike`) means any of them. Words that name a thing of some category only now and then (`glass`, `board`, `computer
desk`) are left out: a missing word leaves a query unmeasured, a wrong one is a wrong truth. What a word may still mean
beside (`orange` the colour, `train` the verb) is decided by the picture: a word counts only where the image has an
instance of its category.

The list is ours; the categories are COCO's (Lin et al., ECCV 2014).
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

_NAMES = """
person: person, man, woman, boy, girl, child, kid, baby, toddler, infant, guy, lady, gentleman, dude, male, female,
  adult, teenager, teen, youth, individual, player, baseball player, tennis player, soccer player, basketball player,
  batter, pitcher, catcher, umpire, skier, snowboarder, skateboarder, surfer, kite surfer, wind surfer, swimmer,
  rider, biker, bicyclist, cyclist, motorcyclist, pedestrian, chef, waiter, waitress, policeman, police officer,
  officer, soldier, fireman, firefighter, worker, bride, groom, student, passenger, spectator, tourist, farmer,
  cowboy, athlete, mother, father, son, daughter, friend, folk, toddler, businessman, pilot
bicycle: bicycle, mountain bike
bicycle + motorcycle: bike
car: car, automobile, sedan, suv, taxi, taxi cab, police car, race car, sports car, minivan
motorcycle: motorcycle, motorbike, motor bike, motor cycle, moped, scooter, motor scooter, dirt bike
airplane: airplane, aeroplane, plane, jet, jetliner, airliner, aircraft, biplane, jet plane, air plane, fighter jet
bus: bus, double decker bus, double-decker bus, school bus, tour bus, city bus, minibus
train: train, subway train, passenger train, freight train, train car, train engine, locomotive, steam engine,
  commuter train
truck: truck, fire truck, firetruck, pickup truck, pick-up truck, pick up truck, dump truck, tow truck,
  garbage truck, food truck, lorry, semi truck, semi-truck, pickup
car + truck: van, jeep
boat: boat, sailboat, sail boat, ship, yacht, canoe, kayak, ferry, raft, gondola, rowboat, row boat, speedboat,
  motorboat, tugboat
traffic light: traffic light, stoplight, stop light, traffic signal, street signal
fire hydrant: fire hydrant, hydrant
stop sign: stop sign
parking meter: parking meter, meter
bench: bench, park bench
bird: bird, seagull, pigeon, duck, goose, parrot, owl, swan, eagle, hawk, pelican, ostrich, chicken, penguin, crow,
  sparrow, robin, hen, flamingo, peacock, rooster, gull
cat: cat, kitten, kitty, kitty cat, tabby
dog: dog, puppy, pup, doggy, poodle, bulldog, dachshund, lap dog, labrador, beagle, sheep dog, sheepdog, terrier
horse: horse, pony, foal, stallion, mare
sheep: sheep, lamb, ewe
cow: cow, cattle, bull, calf, ox, steer
elephant: elephant, baby elephant
bear: bear, polar bear, brown bear, black bear, grizzly bear, grizzly, bear cub, panda, panda bear
zebra: zebra
giraffe: giraffe
backpack: backpack, back pack, knapsack, rucksack
umbrella: umbrella, parasol
handbag: handbag, hand bag, purse
tie: tie, necktie, neck tie, bow tie, bowtie
suitcase: suitcase, suit case, luggage, piece of luggage
frisbee: frisbee, frisbie, flying disc
skis: ski
snowboard: snowboard, snow board
sports ball: ball, sports ball, soccer ball, tennis ball, basketball, football, volleyball
kite: kite
baseball bat: baseball bat, bat
baseball glove: baseball glove, baseball mitt, mitt, catcher 's mitt
skateboard: skateboard, skate board
surfboard: surfboard, surf board
tennis racket: tennis racket, tennis racquet, racket, racquet
bottle: bottle, wine bottle, beer bottle, water bottle, bottle of wine, bottle of water, bottle of beer
wine glass: wine glass, wineglass, glass of wine
cup: cup, coffee cup, mug, coffee mug, teacup, tea cup, cup of coffee, cup of tea
fork: fork
knife: knife
spoon: spoon
bowl: bowl
banana: banana
apple: apple
sandwich: sandwich, burger, hamburger, cheeseburger, sub sandwich
orange: orange
broccoli: broccoli
carrot: carrot
hot dog: hot dog, hotdog, hot-dog, chili dog, corn dog
pizza: pizza, pizza pie, cheese pizza, slice of pizza, pizza slice
donut: donut, doughnut
cake: cake, birthday cake, wedding cake, chocolate cake, carrot cake, cupcake, cup cake, piece of cake, slice of cake
chair: chair, armchair, arm chair, office chair, lawn chair, beach chair, folding chair, high chair, stool
couch: couch, sofa, loveseat, love seat
potted plant: potted plant, plant, house plant, houseplant
bed: bed, bunk bed, mattress
dining table: dining table, table, dinner table, kitchen table, dining room table, picnic table, coffee table,
  table top, tabletop
toilet: toilet, commode, urinal, toilet bowl, toilet seat
tv: tv, television, television set, tv set, flat screen tv, flat screen, television screen, monitor,
  computer monitor, computer screen
laptop: laptop, laptop computer, lap top, lap top computer, notebook computer, macbook
laptop + tv: computer, desktop computer
mouse: mouse, computer mouse
remote: remote, remote control, remote controller, wii remote, wii controller, game controller
keyboard: keyboard, computer keyboard
cell phone: cell phone, cellphone, cellular phone, mobile phone, smartphone, smart phone, phone, iphone
microwave: microwave, microwave oven
oven: oven, stove, stove top, stovetop, range
toaster: toaster
sink: sink, kitchen sink, bathroom sink, wash basin, washbasin
refrigerator: refrigerator, fridge, refridgerator
book: book
clock: clock, clock tower, alarm clock, wall clock, clock face
vase: vase, flower vase
scissors: scissors, pair of scissors
teddy bear: teddy bear, teddy, stuffed bear, stuffed teddy bear, stuffed animal bear
hair drier: hair drier, hair dryer, hairdryer, blow dryer
toothbrush: toothbrush, tooth brush
"""
_NAMES_OF_OTHER_THINGS = """
hot dog stand, hot dog bun, hot dog vendor, dog house, doghouse, dog bed, dog collar, dog bowl, dog park, dog food,
cat food, cat bed, bird house, bird feeder, bird cage, bird bath, horse drawn carriage, horse trailer, cow boy,
sheep skin, bear statue, train station, train track, train tracks, train yard, train platform, train bridge,
train depot, train set, bus stop, bus station, bus driver, bus lane, bus terminal, truck driver, truck bed,
truck stop, car seat, car door, car window, car park, car mirror, cable car, street car, boat house, boat dock,
boat ramp, plane ticket, bike rack, bike path, bike lane, bike trail, bicycle rack, bicycle lane, bicycle path,
motorcycle helmet, motorcycle jacket, bicycle helmet, bike helmet, toilet paper, toilet tissue, toilet brush,
toilet paper roll, roll of toilet paper, toilet stall, toilet room, toilet tank, toilet lid, tv stand, tv show,
television stand, tv remote control, book shelf, book case, book store, computer desk, computer game, computer case,
computer tower, computer desk chair, computer mouse pad, mouse pad, keyboard stand, piano keyboard, phone booth,
phone box, phone call, table cloth, table lamp, table setting, table tennis, tennis table, bed sheet, bed spread,
bed room, bed frame, bed post, chair lift, chair rail, chair leg, ski lift, ski slope, ski pole, ski lodge,
ski resort, ski boot, ski suit, ski jump, ski run, ski trail, ski goggle, ski mask, ski area, ski hill, ski jacket,
ski gear, kite string, kite tail, baseball cap, ball cap, ball field, ball game, ball park, bowl cut,
fruit bowl cake, cake pan, cake stand, cake topper, cake plate, pizza box, pizza oven, pizza cutter, pizza pan,
pizza sauce, pizza crust, pizza dough, pizza shop, pizza parlor, orange juice, orange shirt, orange vest,
orange cone, orange jacket, orange tree, orange peel, apple juice, apple pie, apple tree, apple sauce,
apple computer, banana tree, banana bread, banana peel, banana split, carrot top, bottle cap, bottle opener,
wine bottle opener, cup holder, knife block, knife holder, fork lift, sandwich shop, sink faucet, oven mitt,
oven door, stove hood, range hood, refrigerator door, refrigerator magnet, microwave stand, clock radio,
umbrella stand, tie rack, suit tie, plant life, power plant, plant stand, person 's hand, mountain range,
price range, driving range, shooting range, man made, baby carriage, baby crib, baby stroller, baby bed, baby carrot,
baby grand piano, baby bottle, girl scout, kid 's room, child 's room, meter maid, tail light, remote area,
remote location, remote road, remote field, remote beach
"""
_IRREGULAR = {
    "person": ("people", "persons"),
    "man": ("men",),
    "woman": ("women",),
    "child": ("children",),
    "gentleman": ("gentlemen",),
    "policeman": ("policemen",),
    "fireman": ("firemen",),
    "businessman": ("businessmen",),
    "goose": ("geese",),
    "calf": ("calves",),
    "ox": ("oxen",),
    "knife": ("knives",),
    "mouse": ("mice",),
    "sheep": ("sheep",),
    "cattle": ("cattle",),
    "scissors": ("scissors",),
    "luggage": ("luggage",),
    "aircraft": ("aircraft",),
    "broccoli": ("broccoli",),
}
CATEGORIES: tuple[str, ...] = tuple(
    dict.fromkeys(
        name.strip()
        for line in re.sub(r"\n +", " ", _NAMES).strip().splitlines()
        for name in line.split(":", 1)[0].split(" + ")
    )
)
"""The 80 categories, by COCO's names."""


class Named(NamedTuple):
    """Tokens `start` to `end - 1` name a thing of one of the categories."""

    start: int
    end: int
    categories: tuple[str, ...]


def named_categories(tokens: Sequence[str]) -> list[Named]:
    """The places of a caption where a category is named, from left to right, none overlapping another.

    >>> named_categories(["a", "dog", "eats", "two", "hot", "dogs"])
    [Named(start=1, end=2, categories=('dog',)), Named(start=4, end=6, categories=('hot dog',))]
    """
    phrases, longest = _phrases()
    found: list[Named] = []
    start = 0
    while start < len(tokens):
        for end in range(min(len(tokens), start + longest), start, -1):
            categories = phrases.get(tuple(tokens[start:end]))
            if categories is not None:
                if categories:
                    found.append(Named(start, end, categories))
                start = end
                break
        else:
            start += 1
    return found


@cache
def _phrases() -> tuple[dict[tuple[str, ...], tuple[str, ...]], int]:
    """Every name as tokens, singular and plural, with its categories (none for other things), and the number of tokens
    of the longest.
    """
    phrases: dict[tuple[str, ...], tuple[str, ...]] = {}
    for name in _NAMES_OF_OTHER_THINGS.replace("\n", " ").split(","):
        _add(phrases, name, ())
    for line in re.sub(r"\n +", " ", _NAMES).strip().splitlines():
        categories, names = line.split(":", 1)
        for name in names.split(","):
            _add(phrases, name, tuple(categories.split(" + ")))
    return phrases, max(map(len, phrases))


def _add(phrases: dict[tuple[str, ...], tuple[str, ...]], name: str, categories: tuple[str, ...]) -> None:
    words = name.split()
    # Of "slice of pizza" and "pair of scissors" it is the first word that has a plural.
    varied = words.index("of") - 1 if "of" in words else len(words) - 1
    for form in (words[varied], *_plurals(words[varied])):
        phrases[(*words[:varied], form, *words[varied + 1 :])] = categories


def _plurals(word: str) -> tuple[str, ...]:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if re.search(r"(s|x|z|ch|sh)$", word):
        return (f"{word}es",)
    if re.search(r"[^aeiou]y$", word):
        return (f"{word[:-1]}ies",)
    return (f"{word}s",)
