servics {
  name = "web"
}
