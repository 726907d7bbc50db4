"""The heart: what is added to an image, how visible it is, what it is to achieve, and the loop's gradient."""
