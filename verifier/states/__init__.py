"""What is known at an instruction: registers, stack, frames."""
