"A backend that answers by a function, counts what it is asked, and may break off."

from collections import Counter

import pandas as pd

from radgen.captions.rewrite import transform_captions

NAMES = {"C0040405": "X-Ray Computed Tomography", "C1306645": "Plain x-ray", "C0817096": "Chest"}


def table(*captions, cuis=("C0040405",)):
    return pd.DataFrame({"caption": captions, "cuis": [list(cuis)] * len(captions)})


def pneumonia(chat):
    "The facts of the last message, and a condition."
    return chat[-1]["content"].split("\n")[0] + ", Pneumonia"


class Model:
    def __init__(self, answer=pneumonia, stop=None, key="model:1", structured=False):
        self.answer, self.stop, self.key, self.structured = answer, stop, key, structured
        self.chats, self.schemas, self.failures = [], [], Counter()

    def complete(self, chats, schemas):
        for i, (chat, schema) in enumerate(zip(chats, schemas)):
            if len(self.chats) == self.stop:
                raise KeyboardInterrupt
            self.chats.append(chat)
            self.schemas.append(schema)
            yield i, self.answer(chat)


def rewrite_with(llm, rows, cache=None, **options):
    return transform_captions(rows, NAMES, llm, cache, **options)
