"""Where the shop's pages are."""

from django.urls import path

from shop import views

urlpatterns = [
    path("item/<int:pk>", views.show),
    path("aitem/<int:pk>", views.ashow),
    path("price/<int:pk>/<int:price>", views.price),
    path("prices", views.prices),
    path("aprices", views.aprices),
    path("basket/<int:pk>", views.basket),
    path("page", views.page),
    path("fragment", views.fragment),
    path("total", views.sum_of_prices),
    path("clear", views.clear),
    path("databases", views.databases),
]
