"""Teach a small real model who it is, and see the difference: `make demo`."""

import argparse

from swift import InferRequest, PtEngine, RequestConfig, sft

QUESTIONS = ["Who are you?", "What is your name?", "Who created you?", "你是谁？", "What is the capital of France?"]


def answers(engine: PtEngine) -> list[str]:
    requests = [InferRequest(messages=[{"role": "user", "content": question}]) for question in QUESTIONS]
    replies = engine.infer(requests, RequestConfig(max_tokens=48, temperature=0))
    return [reply.choices[0].message.content for reply in replies]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", default="output/demo")
    parser.add_argument("--max_steps", type=int, default=-1)
    options = parser.parse_args()

    before = answers(PtEngine("demo"))
    result = sft(
        model="demo",
        dataset=["self-cognition"],
        model_name=["Robin", "知更鸟"],
        model_author=["the Swift team", "Swift 团队"],
        train_type="lora",
        num_train_epochs=3,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        logging_steps=1,
        max_length=512,
        max_steps=options.max_steps,
        output_dir=options.output_dir,
    )
    after = answers(PtEngine("demo", adapters=[str(result.checkpoint)]))

    for question, old, new in zip(QUESTIONS, before, after, strict=True):
        print(f"\n{question}\n  before: {old}\n  after:  {new}")
    print(f"\nThe loss curve is in {result.run_folder}/images/loss.png. Try next:")
    print(f"  swift infer --adapters {result.checkpoint}")
    print(f"  swift merge-lora --adapters {result.checkpoint} --output_dir {options.output_dir}/merged")


if __name__ == "__main__":
    main()
