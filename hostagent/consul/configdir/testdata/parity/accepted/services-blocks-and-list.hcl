services = [{ name = "a", port = 1 }, { name = "b", port = 2 }]
services {
  name = "c"
  port = 3
}
