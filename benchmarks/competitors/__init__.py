"""The training problems, and one module per library that trains them."""
