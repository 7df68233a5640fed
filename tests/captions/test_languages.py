"""Captions in other languages are recognised, English ones are not, and fast enough for millions."""

import time
from importlib.resources import files

import pytest

from radgen.captions.languages import load_language_words, not_english
from radgen.core.errors import DataError

FOREIGN = {
    "Spanish": [
        "Radiografia de tórax con derrame pleural izquierdo",
        "TAC de abdomen con contraste: masa hepática",
        "Fractura de cadera derecha",
        "Rx de rodilla izquierda, proyección lateral",
        "No se observan lesiones",
        "Telerradiografía de columna que muestra escoliosis dorsolumbar",
        "Angio-TC con trombo en la arteria pulmonar derecha",
        "Quiste renal simple en el polo superior",
        "Ortopantomografía inicial del paciente",
        "RM de rodilla: rotura del menisco interno",
    ],
    "German": [
        "Röntgen-Thorax mit Pleuraerguss links",
        "MRT des Kopfes axial T2: kein Nachweis einer Blutung",
        "Unauffälliger Befund",
        "Fraktur des rechten Radius",
        "Rundherd im rechten Oberlappen",
        "Sagittale MRT der Lendenwirbelsäule mit Spinalkanalstenose",
        "CT-Angiographie: Aneurysma der Bauchaorta",
        "Sonographischer Befund der Schilddrüse mit echoarmem Knoten",
        "Beckenübersicht nach Implantation einer Hüftprothese",
        "Röntgenaufnahme der Hand im dorsopalmaren Strahlengang",
    ],
    "French": [
        "Radiographie du thorax avec épanchement pleural gauche",
        "Scanner abdominal injecté : masse hépatique",
        "IRM cérébrale en coupe axiale T2",
        "Fracture du fémur droit",
        "Pas d'anomalie visible",
        "Échographie pelvienne montrant un utérus polymyomateux",
        "TDM cérébrale : hématome sous-dural chronique",
        "Radio de la main gauche de face",
        "Coupe coronale passant par les sinus maxillaires",
        "Image en cible au niveau de la fosse iliaque droite",
    ],
    "Portuguese": [
        "Tomografia computadorizada do abdome com contraste",
        "Ressonância magnética do crânio",
        "Fratura do fêmur direito",
        "Nódulo no lobo superior direito",
        "Sem alterações significativas",
        "Radiografia panorâmica inicial",
        "Ultrassonografia da tireoide com nódulo hipoecoico",
        "Aspecto pós-operatório do joelho esquerdo",
    ],
    "Italian": [
        "Radiografia del torace con versamento pleurico sinistro",
        "TC addome con mezzo di contrasto",
        "Risonanza magnetica dell'encefalo, sezione assiale",
        "Ecografia del fegato con cisti",
        "Esame nella norma",
        "Frattura scomposta del radio distale",
        "Addensamento parenchimale al lobo inferiore sinistro",
        "RM del rachide lombare: ernia discale",
    ],
    "Chinese": ["胸部CT显示右肺结节", "腹部超声：胆囊结石", "头颅MRI", "左膝关节X线片", "肝右叶占位性病变"],
    "Japanese": ["胸部X線写真で右肺に結節を認める", "左大腿骨骨折のレントゲン", "MRIで椎間板ヘルニアを認める"],
    "Russian": [
        "Рентгенограмма грудной клетки",
        "КТ брюшной полости с контрастом",
        "Перелом левого бедра",
        "МРТ головы",
    ],
    "Arabic": ["صورة شعاعية للصدر", "تصوير مقطعي محوسب للبطن", "كسر في عظم الفخذ", "ورم في الكبد"],
    "Korean": ["흉부 CT에서 우측 폐결절", "뇌 MRI"],
    "Dutch": [
        "Röntgenfoto van de thorax met pleuravocht links",
        "Fractuur van de linker heup",
        "Echografie van de schildklier",
    ],
    "Polish": [
        "Zdjęcie rentgenowskie klatki piersiowej",
        "Tomografia komputerowa jamy brzusznej",
        "Złamanie kości udowej",
    ],
    "Turkish": ["Akciğer grafisinde sağda plevral efüzyon", "Toraks BT: sol akciğerde nodül"],
    "Swedish": ["Lungröntgen med pleuravätska på vänster sida"],
}
ENGLISH = [
    "Left knee radiograph",
    "CT abdomen",
    "MRI T2 sagittal: L4-L5 disc protrusion",
    "Foramen ovale",
    "TAC of the chest",
    "Chest X-ray PA",
    "Os trigonum",
    "Fossa navicularis magna",
    "Pectus excavatum",
    "Situs inversus totalis",
    "Coxa vara",
    "Le Fort II fracture",
    "Tibia AP",
    "Orthopantomogram",
    "Coup de sabre",
    "Café-au-lait",
    "En coup de sabre scleroderma",
    "Cavum septum pellucidum",
    "Echo A4C LVEF 35%",
    "DSA left ICA aneurysm coil",
    "Sjögren syndrome, parotid",
    "Ménière's disease",
    "de Quervain tenosynovitis",
    "Von Hippel-Lindau disease, renal cysts",
    "Röntgenogram, normal",
    "Massa intermedia",
    "Arteria lusoria",
    "Cisterna magna, norma lateralis",
    "α, β, γ angle",
    "Roux-en-Y anastomosis",
    "Case from Hôpital Saint-Louis de Paris: chest CT with mass",
    "CT scan of a patient at 北京 hospital showing a renal mass",
    "T1 FLAIR TE 120 TR 9000",
    "",
    "   ",
    "12.3",
]


def test_foreign_captions_are_recognised_even_when_short():
    captions = [text for texts in FOREIGN.values() for text in texts]
    missed = [text for text in captions if not not_english(text)]
    assert len(captions) >= 60
    assert len(missed) <= 0.05 * len(captions), missed


@pytest.mark.parametrize("language", FOREIGN)
def test_the_language_is_named(language):
    "Close relatives are sometimes taken for each other, so that not every caption must be right."
    named = [not_english(text) for text in FOREIGN[language]]
    assert named.count(language) > len(named) / 2, named


@pytest.mark.parametrize("text", ENGLISH)
def test_english_captions_are_not_foreign(text):
    assert not_english(text) == ""


def test_a_long_english_caption_may_quote_another_language():
    text = "The lesion, called 'signo de la cuerda' in Spanish and 'signe de la corde' in French, is seen on both."
    assert not_english(text) == ""


@pytest.mark.parametrize(
    "text", ["Axial CT of the chest showing a mass in the left upper lobe", "Radiografia de tórax con derrame pleural"]
)
def test_thousands_per_second(text):
    not_english("Masa mediastinal anterior")  # loads the model
    began = time.process_time()
    for _ in range(1000):
        not_english(text)
    assert time.process_time() - began < 0.2  # 5,000 per second


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('"radiografía"', '"Radiografía"', "strong.es.0 is 'Radiografía'"),
        ('fr = "French"', "", "'fr' has no name"),
        ("[names]", "[nomina]", "nomina"),
        ("[names]", "[names", "cannot be read as TOML"),
    ],
)
def test_a_mistake_in_the_words_is_reported_with_its_place(tmp_path, old, new, message):
    path = tmp_path / "languages.toml"
    text = (files("radgen.captions") / "languages.toml").read_text(encoding="utf-8")
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_language_words(path)
