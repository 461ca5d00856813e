"""Which emoji form which class of the shipped scenes, and which photographs lie behind them.

The groups are natural ones, chosen so that each has about twenty cut-outs or more. Joined emoji (a black cat
is "cat" + joiner + "black square") are written out as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

CLASSES: dict[str, str] = {
    "bird": "🐓 🐔 🐣 🐤 🐥 🐦 🐧 🦃 🦅 🦆 🦉 🦚 🦜 🦢 🦩 🦤 🕊 🪿 🐦‍⬛ 🪶",
    "mammal": (
        "🐀 🐁 🐂 🐃 🐄 🐅 🐆 🐇 🐈 🐈‍⬛ 🐎 🐏 🐐 🐑 🐒 🐕 🐖 🐗 🐘 🐨 🐩 🐪 🐫 🐭 🐮 🐯 🐰 🐱 🐴 🐵 🐶 🐷 🐹 🐺 🐻 "
        "🐻‍❄ 🐼 🐿 🦁 🦄 🦇 🦊 🦌 🦍 🦏 🦒 🦓 🦔 🦘 🦙 🦛 🦝 🦡 🦣 🦥 🦦 🦧 🦨 🦫 🦬 🦮 🐕‍🦺 🫎 🫏"
    ),
    "water_animal": "🐋 🐳 🐬 🐟 🐠 🐡 🐙 🐚 🦀 🦈 🦐 🦑 🦞 🦪 🦭 🪼 🪸 🐊 🐢 🐸",
    "insect_reptile": "🐌 🐛 🐜 🐝 🐞 🦋 🦂 🦗 🦟 🕷 🪰 🪱 🪲 🪳 🐍 🦎 🦕 🦖 🐉 🐲 🦠",
    "fruit_vegetable": (
        "🍅 🍆 🍇 🍈 🍉 🍊 🍋 🍌 🍍 🍎 🍏 🍐 🍑 🍒 🍓 "
        "🥑 🥒 🥔 🥕 🥝 🥥 🥦 🥬 🥭 🫐 🫑 🫒 🌽 🌶 🍄 🌰 🥜 🫘 🫚 🫛 🧄 🧅 🎃 🍠"
    ),
    "plant": "🌲 🌳 🌴 🌵 🌱 🌾 🌿 🍀 ☘ 🍁 🍂 🍃 🎄 🎋 🎍 🪴 🪵 🌷 🌸 🌹 🌺 🌻 🌼 💐 🥀 🪷 🪻 🏵 💮",
    "food": (
        "🍔 🍕 🍖 🍗 🍘 🍙 🍚 🍛 🍜 "
        "🍝 🍞 🍟 🍡 🍢 🍣 🍤 🍥 🍦 🍧 🍨 🍩 🍪 🍫 🍬 🍭 🍮 🍯 🍰 🍱 🍲 🍳 🥐 🥓 🥖 🥗 🥘 🥙 "
        "🥚 🥞 🥟 🥠 🥡 🥣 🥧 🥨 🥩 🥪 🥫 🥮 🥯 🧀 🧁 🧆 🧇 🧈 🎂 🌭 🌮 🌯 🫓 🫔 🫕"
    ),
    "tool": ("🔨 🪓 ⛏ ⚒ 🛠 🗡 ⚔ 🪚 🔧 🪛 🔩 ⚙ 🗜 🔪 🪝 🧰 🧲 🪜 ⚗ 🔬 🔭 ✂ 🖊 🖋 🖌 🖍 ✏ ✒ 🏹 🛡 🔑 🗝 🧹 🪒 🪥 🪠 🪤 ⚖ 🔦 🪣"),
    "vehicle": (
        "🚂 🚃 🚄 🚅 🚆 🚇 🚈 🚊 🚋 🚌 🚍 🚎 🚐 🚑 🚒 🚓 🚔 🚕 🚖 🚗 🚘 🚙 🚚 🚛 🚜 🚝 🚞 🚟 🚠 🚡 🚢 ⛵ 🚤 🛥 🛳 ⛴ 🛶 ✈ "
        "🛩 🛫 🛬 🚁 🚀 🛸 🛺 🛻 🛰 🚲 🛴 🛵 🏍 🏎 🦽 🦼"
    ),
    "building": "🏠 🏡 🏢 🏣 🏤 🏥 🏦 🏨 🏩 🏪 🏫 🏬 🏭 🏯 🏰 🏛 🏚 🏘 🏗 🏟 🛖 ⛪ 🕌 🕍 🛕 🕋 ⛩ 🗼 🗽 💒 ⛺ 🎪 ⛲",
    "clothing": (
        "👒 👓 👔 👕 👖 👗 👘 👙 👚 👛 👜 👝 👞 👟 👠 "
        "👡 👢 🎒 🎩 🎓 🧢 🧣 🧤 🧥 🧦 🥻 🥼 🥽 🥾 🥿 🩰 🩱 🩲 🩳 🩴 🦺 👑 ⛑ 🪖 🕶 🎽 🥋"
    ),
    "sport": "⚽ ⚾ 🥎 🏀 🏐 🏈 🏉 🎾 🥏 🎳 🏏 🏑 🏒 🥍 🏓 🏸 🥅 ⛳ 🎱 🏆 🏅 🥇 🥈 🥉 🎯 🪀 🎿 🛷 🥌 🥊 ⛸ 🛹 🛼",
}

# Variants of one thing, by name; drawings that merely look alike are found by comparing them.
FAMILIES: tuple[str, ...] = (
    "🐔 🐓",
    "🐣 🐤 🐥",
    "🐀 🐁 🐭",
    "🐂 🐃 🐄 🐮",
    "🐅 🐆 🐯",
    "🐇 🐰",
    "🐈 🐈‍⬛ 🐱",
    "🐎 🐴",
    "🐒 🐵",
    "🐕 🐶 🦮 🐕‍🦺 🐩",
    "🐖 🐷",
    "🐪 🐫",
    "🐻 🐻‍❄ 🐼",
    "🐘 🦣",
    "🐋 🐳",
    "🦕 🦖",
    "🐉 🐲",
    "🍎 🍏",
    "🌷 🌹 🥀",
    "🍀 ☘",
    "🍁 🍂 🍃",
    "🌲 🎄",
    "🌸 💮",
    "🍗 🍖",
    "🍦 🍧 🍨",
    "🍡 🍢",
    "🥘 🍲",
    "🥪 🍔",
    "⚒ 🛠 🔨 ⛏",
    "🗡 ⚔",
    "🖊 🖋 ✒",
    "🔑 🗝",
    "🚃 🚋 🚞",
    "🚄 🚅 🚈",
    "🚆 🚇 🚊",
    "🚌 🚍 🚎 🚐",
    "🚓 🚔",
    "🚕 🚖",
    "🚗 🚘 🚙",
    "🚚 🚛",
    "🚠 🚡",
    "🛥 🛳 ⛴ 🚢 🚤",
    "🛫 🛬 ✈ 🛩",
    "🦽 🦼",
    "🏠 🏡 🏘 🏚",
    "🏣 🏤",
    "🏨 🏩",
    "🏫 🏢",
    "🕌 🕍",
    "👓 🕶 🥽",
    "👕 👚 🎽",
    "👝 👜 👛",
    "👞 🥾",
    "👟 🥿",
    "🏏 🏑 🏒 🥍",
    "🎾 🏸",
    "🏅 🥇 🥈 🥉",
    "🏈 🏉",
)

# Signs of Unicode 15, which the name table of older Pythons lacks.
NEW_NAMES: dict[str, str] = {
    "🪿": "goose",
    "🪼": "jellyfish",
    "🫎": "moose",
    "🫏": "donkey",
    "🪻": "hyacinth",
    "🫚": "ginger_root",
    "🫛": "pea_pod",
}


@dataclass(frozen=True)
class Photograph:
    """One background: where it comes from, under which terms, and on which side of the split it lies."""

    file: str
    origin: str
    title: str
    author: str
    license: str
    split: str


_LOMIRI = "Debian lomiri-wallpapers-16.04 20.04.0-2"
_SKIMAGE = "scikit-image 0.26.0, skimage/data"

BACKGROUNDS: tuple[Photograph, ...] = (
    Photograph("Picture_1A_by_freespace.jpg", _LOMIRI, "Picture 1A", 'Trevor "Freespace"', "CC-BY-4.0", "seen"),
    Photograph("Wine_by_Jakkub_Mede.jpg", _LOMIRI, "Wine", "Jakub Mede", "CC-BY-4.0", "held_out"),
    Photograph("aitzgorri_by_Aitzol_Berasategi.jpg", _LOMIRI, "aitzgorri", "Aitzol Berasategi", "CC-BY-4.0", "seen"),
    Photograph("life_by_Aitzol_Berasategi.jpg", _LOMIRI, "life", "Aitzol Berasategi", "CC-BY-4.0", "seen"),
    Photograph(
        "picosdeeuropa_by_Aitzol_Berasategi.jpg", _LOMIRI, "picosdeeuropa", "Aitzol Berasategi", "CC-BY-4.0", "held_out"
    ),
    Photograph("seeding_by_Clements_Engelhardt.jpg", _LOMIRI, "seeding", "Clemens Engelhardt", "CC0-1.0", "seen"),
    Photograph("sunset_by_Aitzol_Berasategi.jpg", _LOMIRI, "sunset", "Aitzol Berasategi", "CC-BY-4.0", "seen"),
    Photograph("umang_by_Abhishek_Mudgal.jpg", _LOMIRI, "umang", "Abhishek Mudgal", "CC-BY-4.0", "seen"),
    Photograph("brick.png", _SKIMAGE, "brick", "CC0Textures (Bricks25)", "CC0-1.0", "seen"),
    Photograph("grass.png", _SKIMAGE, "grass", "Linolafett", "CC0-1.0", "seen"),
    Photograph("gravel.png", _SKIMAGE, "gravel", "CC0Textures (Gravel04)", "CC0-1.0", "held_out"),
    Photograph("hubble_deep_field.jpg", _SKIMAGE, "Hubble eXtreme Deep Field", "NASA", "public domain", "seen"),
)
