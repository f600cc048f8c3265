"""Ask a model on the engine one question, through the official tinker SDK.

Any program written for Tinker can be pointed at the engine in this way, by the variables
`TINKER_BASE_URL` and `TINKER_API_KEY`.

    python examples/ask.py --tokenizer DIR (--base-model ID | --checkpoint tinker://…) "question"
"""

import argparse

import tinker
from transformers import AutoTokenizer


def main() -> None:
    """Print the model's answer: greedy, at most 60 tokens."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--tokenizer", required=True, help="folder of the model's tokenizer")
    arguments.add_argument("--base-model", help="the engine's name of a model")
    arguments.add_argument(
        "--checkpoint", help="sampler weights, tinker://RUN/sampler_weights/NAME"
    )
    arguments.add_argument("question")
    asked = arguments.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(asked.tokenizer)
    with tinker.ServiceClient() as service:
        sampler = service.create_sampling_client(
            base_model=asked.base_model, model_path=asked.checkpoint
        ).result()
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": asked.question}],
            add_generation_prompt=True,
            return_dict=False,
        )
        answer = sampler.sample(
            prompt=tinker.ModelInput.from_ints(prompt),
            num_samples=1,
            sampling_params=tinker.SamplingParams(max_tokens=60, temperature=0.0),
        ).result()
    print(tokenizer.decode(answer.sequences[0].tokens, skip_special_tokens=True).strip())


if __name__ == "__main__":
    main()
