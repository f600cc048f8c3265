"""Load a base model and an adapter with plain transformers and PEFT, and ask it one question.

No part of dreadnode training is imported here: the adapter works without it.

    python examples/load_adapter.py --base DIR --adapter DIR "question"
"""

import argparse

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Print the model's answer: greedy, at most 60 tokens."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--base", required=True, help="folder of the base model")
    arguments.add_argument("--adapter", required=True, help="folder of the adapter")
    arguments.add_argument("question")
    asked = arguments.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(asked.base)
    base = AutoModelForCausalLM.from_pretrained(asked.base, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, asked.adapter).eval()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": asked.question}],
        add_generation_prompt=True,
        return_dict=False,
        return_tensors="pt",
    )
    with torch.inference_mode():
        answer = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=60,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
        )
    print(tokenizer.decode(answer[0, prompt.shape[1] :], skip_special_tokens=True).strip())


if __name__ == "__main__":
    main()
