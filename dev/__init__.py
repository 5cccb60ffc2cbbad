"""The local stack and the demo fleet. Development only: neither `pipeline` nor `features` imports it."""
